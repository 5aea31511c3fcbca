"""Packed weights: those of a model at the bits that variants give them, as codes.

Six bit widths of every weight as floats are six times the model, packed they are less than it. One
is made when a variant first needs it, and kept in a folder, it is made once per node.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.cache import write_whole
from rl_compress.targets.threads import threads

_EXPANDED_BYTES = 64 << 20
"""Values that are kept beside the codes they come from: all of a small model, and of a large one
the few that were used last."""

_DESCRIPTION = "description"

_Packed = tuple[dict[str, Tensor], dict[str, Any]]
"""What is stored of a quantized tensor: see :meth:`QuantizedTensor.from_tensors`."""


class PackedWeights:
    """Weights of one model, packed, by their bits."""

    def __init__(
        self, config: QuantizationConfig, output_axes: Mapping[str, int], folder: Path | None = None
    ) -> None:
        """Begin without any.

        Args:
            config: How to quantize; its own bits do not count.
            output_axes: The axis of each weight that makes channels.
            folder: Where processes of a node share them; None: they are this object's own.
        """
        self._config, self._output_axes, self._folder = config, output_axes, folder
        self._packed: dict[tuple[str, int], _Packed] = {}
        self._values: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def again(self, folder: Path | None = None) -> PackedWeights:
        """Return the same of which none was used.

        Args:
            folder: Of these weights alone, where processes share them from now on; what was made
                so far is put there. None: where they were kept before.
        """
        if folder is None:
            return PackedWeights(self._config, self._output_axes, self._folder)
        how = self._config.model_dump_json(exclude={"weight_bits", "activation_bits"})
        others = PackedWeights(self._config, self._output_axes, folder / _digest(how))
        for key, packed in self._packed.items():
            others._shared(*key, lambda packed=packed: packed)  # type: ignore[misc]
        return others

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights that were used so far."""
        return sum(t.nbytes for tensors, _ in self._packed.values() for t in tensors.values())

    def __contains__(self, key: tuple[str, int]) -> bool:
        """Say whether a weight, by name, was used with so many bits."""
        return key in self._packed

    def at(self, name: str, bits: int, weight: Tensor) -> Tensor:
        """Return a weight's values with a number of bits, on its device.

        Args:
            name: The weight's.
            bits: Below 16.
            weight: Unquantized, all of it.
        """
        key = name, bits
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        if key not in self._packed:
            self._packed[key] = self._shared(name, bits, lambda: self._made(name, bits, weight))
        values = QuantizedTensor.from_tensors(*self._packed[key]).dequantize().to(weight)
        self._values[key] = values
        while sum(kept.nbytes for kept in self._values.values()) > _EXPANDED_BYTES:
            self._values.popitem(last=False)
        return values

    def _made(self, name: str, bits: int, weight: Tensor) -> _Packed:
        config = self._config.model_copy(update={"weight_bits": bits})
        # On the CPU, as the model that is delivered, and on one thread, whoever makes it: else sums
        # have another order.
        with threads(1):
            found = quantize_tensor(
                weight.cpu(), config, output_axis=self._output_axes[name], name=name
            )
        return found.to_tensors(), found.describe()

    def _shared(self, name: str, bits: int, make: Callable[[], _Packed]) -> _Packed:
        """Return packed weights from the folder, made now if no process of the node has made it."""
        if self._folder is None:
            return make()
        path = self._folder / f"{_digest(name)}@{bits}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    tensors, description = make()
                    whole = {part: tensor.contiguous() for part, tensor in tensors.items()}
                    write_whole(path, save(whole, {_DESCRIPTION: json.dumps(description)}))
        except OSError:
            # A full disk is no fault of the variant, which would count as failed.
            return make()
        with safe_open(path, framework="pt") as file:
            mapped = {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118
            return mapped, json.loads(file.metadata()[_DESCRIPTION])


def _digest(text: str) -> str:
    """Return what names a file: a layer's name may hold what a file's may not."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
