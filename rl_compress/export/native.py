"""The format that this package reads: safetensors, without a pickle."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError
from rl_compress.export.format import Delivered, Format
from rl_compress.export.manifest import CostChange
from rl_compress.export.packed_state import pack_state, stored_bytes
from rl_compress.export.tensor_file import write_tensors
from rl_compress.model.described import NotPlainError, describe
from rl_compress.quantizers.activations import ActivationQuantizer

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
ARCHITECTURE_FILE = "architecture.json"


class Native(Format):
    """The tensors, quantized and sparse weights packed, and the architecture; always written.

    Where the architecture is more than plain data, loading needs the target's factory.
    """

    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        """See :meth:`Format.write`; the delivered size is that of the tensors stored.

        Raises:
            UnsupportedLayerError: The model's state is more than tensors.
        """
        tensors, aliases = _store_once(delivered.model.state_dict())
        tensors, packed = pack_state(tensors, delivered.packing)
        path = folder / WEIGHTS_FILE
        write_tensors(tensors, path, packed=bool(packed))
        activations = delivered.packing.quantization.activations
        delivered.entries.update(
            aliases=aliases,
            packed=packed,
            activations={layer: quantizer.describe() for layer, quantizer in activations.items()},
            costs=_with_size(delivered.manifest.costs, stored_bytes(tensors)),
        )
        architecture = _describe(delivered.model, folder / ARCHITECTURE_FILE)
        return [path, *architecture]


def _describe(model: nn.Module, path: Path) -> list[Path]:
    """Write the architecture, where it is plain data."""
    try:
        described = describe(model, ignoring=ActivationQuantizer)
    except NotPlainError as reason:
        logger.info("loading needs the target's factory: %s", reason)
        return []
    path.write_text(json.dumps(described, separators=(",", ":")) + "\n", encoding="utf-8")
    return [path]


def _with_size(costs: Mapping[str, CostChange], size_bytes: int) -> dict[str, CostChange]:
    """Put the size that was really written in the place of the predicted one."""
    if "size_bytes" not in costs:
        return dict(costs)
    change = costs["size_bytes"].model_copy(update={"delivered": size_bytes})
    return {**costs, "size_bytes": change}


def _store_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors to store, and for each name left out the name it is stored under."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    storages: set[tuple[object, ...]] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedLayerError(
                f"{name}: a model's state must be tensors, but got {type(tensor).__name__}; "
                f"keep it out of the state dict, for it cannot be saved without a pickle"
            )
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        view = (*storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and view in names:
            aliases[name] = names[view]
            continue
        names[view] = name
        # Different views of one storage are tied again by the architecture; here each is whole.
        copied = tensor.clone() if storage in storages else tensor
        storages.add(storage)
        stored[name] = copied.detach().cpu().contiguous()
    return stored, aliases
