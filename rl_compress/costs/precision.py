"""How many bits each tensor of a model takes, when stored and when multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.layers.axes import named_tensors, quantizable_weights
from rl_compress.policy.space_config import UNQUANTIZED, SpaceConfig
from rl_compress.quantization.blocks import Blocking
from rl_compress.quantization.quantized_tensor import quantize_tensor


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of one tensor."""

    stored_bits: int
    """Bits of each element in the file."""
    bops_per_mac: int
    """Bit operations of a multiplication by one of its elements: weight bits times input bits."""
    block_bytes: int = 0
    """Bytes of the scales, or whatever else a block of the quantizer stores beside its codes."""
    block_axis: int | None = None
    """Axis whose every index is a block; None: the whole tensor is one, or blocks have a size."""
    block_size: int | None = None
    """Elements of a block; None: see ``block_axis``."""


def stored_bytes(
    precision: Sequence[Precision], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return what tensors take in the file, shape ``(num_tensors,)``.

    Args:
        precision: Of each tensor.
        lengths: Their shapes, ones following, shape ``(num_tensors, max_dims)``.
    """
    bits = np.array([entry.stored_bits for entry in precision], dtype=np.int64)
    overhead = np.array([entry.block_bytes for entry in precision], dtype=np.int64)
    axis = np.array([-1 if e.block_axis is None else e.block_axis for e in precision])
    size = np.array([e.block_size or 0 for e in precision], dtype=np.int64)
    elements = lengths.prod(axis=1)
    by_axis = lengths[np.arange(len(lengths)), axis]
    by_size = np.where(size > 0, elements // np.maximum(size, 1), 1)
    return -(-elements * bits // 8) + overhead * np.where(axis >= 0, by_axis, by_size)


def precisions(model: nn.Module, config: SpaceConfig) -> dict[str, Precision]:
    """Return the precision of every tensor of a model.

    Args:
        model: The uncompressed model.
        config: Says what is quantized.

    Raises:
        ConfigError: Groups of weights do not divide a layer's inputs.
    """
    found = {name: unquantized(tensor) for name, tensor in named_tensors(model).items()}
    for name, axis in quantizable_weights(model, config.skips).items():
        Blocking.of(config.quantization, model.get_parameter(name).shape, axis, name)
        found[name] = _quantized(found[name].stored_bits, axis, config)
    return found


def unquantized(tensor: Tensor) -> Precision:
    """Return the precision of a tensor as it is."""
    bits = 8 * tensor.element_size()
    return Precision(bits, bits * bits)


def _quantized(own_bits: int, axis: int, config: SpaceConfig) -> Precision:
    quantization = config.quantization
    weight_bits, input_bits = (
        own_bits if bits == UNQUANTIZED else bits
        for bits in (quantization.weight_bits, quantization.activation_bits)
    )
    if quantization.weight_bits == UNQUANTIZED:
        return Precision(own_bits, own_bits * input_bits)
    return Precision(
        stored_bits=weight_bits,
        bops_per_mac=weight_bits * input_bits,
        block_bytes=_block_bytes(config),
        block_axis=axis if quantization.granularity == "channel" else None,
        block_size=quantization.group_size if quantization.granularity == "group" else None,
    )


def _block_bytes(config: SpaceConfig) -> int:
    """Quantize one block, and see what it takes beside its codes."""
    elements = 64
    block = torch.linspace(-1.0, 1.0, elements).reshape(1, elements)
    alone = config.quantization.model_copy(update={"granularity": "tensor"})
    codes = -(-elements * config.quantization.weight_bits // 8)
    return quantize_tensor(block, alone).packed_bytes - codes
