"""A quantized tensor: codes and parameters, to be stored packed and turned back into values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.quantizers.blocks import Blocking
from rl_compress.quantizers.error import sqnr_db
from rl_compress.quantizers.factory import make_quantizer, remake_quantizer
from rl_compress.quantizers.packing import pack_bits, packed_bytes, unpack_bits
from rl_compress.quantizers.quantizer import Parameters, Quantizer
from rl_compress.space.space_config import QuantizationConfig

CODES = "codes"


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """What is stored of a tensor instead of its values."""

    codes: Tensor
    """Bytes below ``2^bits``, in the tensor's own shape."""
    parameters: Parameters
    """Of the quantizer, by block."""
    quantizer: Quantizer
    """Fitted by now: only its levels are of interest."""
    blocking: Blocking

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.quantizer.bits

    def dequantize(self) -> Tensor:
        """Return the values that the codes stand for, float32, in the tensor's own shape."""
        values = self.quantizer.decode(self.blocking.split(self.codes), self.parameters)
        return self.blocking.join(values, self.codes.shape)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed codes and of the parameters, as :meth:`to_tensors` stores them."""
        stored = sum(p.numel() * p.element_size() for p in self.parameters.values())
        return packed_bytes(self.codes.numel(), self.bits) + stored

    def sqnr_db(self, original: Tensor) -> float:
        """Return the signal to quantization noise ratio against the original values, in dB."""
        return sqnr_db(original, self.dequantize())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return packed codes and parameters, to be stored as they are."""
        return {CODES: pack_bits(self.codes, self.bits), **self.parameters}

    def describe(self) -> dict[str, Any]:
        """Return as plain data what the tensors do not tell."""
        return {
            **self.quantizer.identity,
            "shape": list(self.codes.shape),
            "granularity": self.blocking.granularity,
            "output_axis": self.blocking.output_axis,
            "group_size": self.blocking.group_size,
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
    ) -> QuantizedTensor:
        """Rebuild from :meth:`to_tensors` and :meth:`describe`."""
        shape = torch.Size(description["shape"])
        codes = unpack_bits(tensors[CODES], description["bits"], shape.numel()).reshape(shape)
        return cls(
            codes,
            {name: tensor for name, tensor in tensors.items() if name != CODES},
            remake_quantizer(description),
            Blocking(
                description["granularity"], description["output_axis"], description["group_size"]
            ),
        )


def quantize_tensor(
    tensor: Tensor, config: QuantizationConfig, *, output_axis: int = 0, name: str = "tensor"
) -> QuantizedTensor:
    """Quantize a weight as a job's `quantization` section says.

    Args:
        tensor: Finite values with at least two axes.
        config: Its (first) ``weight_bits`` must be below 16.
        output_axis: Axis of the output channels.
        name: Of the tensor, for messages.

    Raises:
        ConfigError: Groups do not divide the inputs, or a value is NaN or infinite.
    """
    check_finite(tensor, name)
    quantizer = make_quantizer(
        config.quantizer, config.weight_levels[0], config, config.quantizer_options
    )
    blocking = Blocking.of(config, tensor.shape, output_axis, name)
    blocks = blocking.split(tensor.detach().float())
    parameters = quantizer.fit(blocks)
    inputs = tensor.numel() // max(tensor.shape[output_axis], 1)
    codes = quantizer.encode(blocks, parameters, run=min(inputs, blocks.shape[1]))
    return QuantizedTensor(
        blocking.join(codes, tensor.shape).contiguous(), parameters, quantizer, blocking
    )


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuse a weight that cannot be quantized.

    Raises:
        ConfigError: A value is NaN or infinite.
    """
    if not tensor.isfinite().all():
        raise ConfigError(f"{name}: cannot be quantized, for it holds NaN or infinite values")
