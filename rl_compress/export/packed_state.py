"""The packed state: quantized weights as codes, sparse ones without their zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rl_compress.importance.sparse_packing import pack_sparse, sparse_bytes, unpack_sparse
from rl_compress.quantizers.model import Quantization
from rl_compress.quantizers.packing import pack_bits, unpack_bits
from rl_compress.quantizers.quantized_tensor import CODES, QuantizedTensor

_SEPARATOR = ":"
"""Between a tensor's name and the name of one of its parts; no module's name holds it."""

_VALUES = "values"


@dataclass(frozen=True, slots=True)
class Packing:
    """What of a model can be stored in less space than its tensors take."""

    quantization: Quantization = field(default_factory=Quantization)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """For each sparse weight which of its elements stay."""


def pack_state(
    state: Mapping[str, Tensor], packing: Packing
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Replace tensors by what has to be stored of them.

    Args:
        state: Tensors by name.
        packing: Which of them are quantized or sparse.

    Returns:
        The tensors to store, and for each packed one a description in plain data.
    """
    stored: dict[str, Tensor] = {}
    descriptions: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        quantized, mask = packing.quantization.weights.get(name), packing.masks.get(name)
        if mask is not None and not _pays(tensor, quantized, mask):
            mask = None
        if quantized is None and mask is None:
            stored[name] = tensor
            continue
        parts, descriptions[name] = _pack(tensor, quantized, mask)
        stored |= {f"{name}{_SEPARATOR}{part}": value for part, value in parts.items()}
    return stored, descriptions


def unpack_state(
    stored: Mapping[str, Tensor], descriptions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Undo :func:`pack_state`: the values that were delivered, dense and in float32.

    Raises:
        KeyError: A part is missing.
    """
    state = {name: tensor for name, tensor in stored.items() if _SEPARATOR not in name}
    for name, description in descriptions.items():
        state[name] = unpacked(parts_of(name, stored), description)
    return state


def parts_of(name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is stored of one packed tensor."""
    prefix = f"{name}{_SEPARATOR}"
    return {
        key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)
    }


def stored_bytes(stored: Mapping[str, Tensor]) -> int:
    """Return the bytes of tensors as they are stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


def _pays(tensor: Tensor, quantized: QuantizedTensor | None, mask: Tensor) -> bool:
    """Say whether a tensor takes less room without its zeros."""
    bits = 8 * tensor.element_size() if quantized is None else quantized.bits
    rows, count = len(mask), int(mask.sum())
    packed = sparse_bytes(rows, mask.numel() // rows, count, bits)
    return packed < -(-mask.numel() * bits // 8)


def _pack(
    tensor: Tensor, quantized: QuantizedTensor | None, mask: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    parts: dict[str, Tensor] = {}
    description: dict[str, Any] = {}
    values = tensor
    if quantized is not None:
        parts, description = quantized.to_tensors(), {"quantized": quantized.describe()}
        values = quantized.codes
    if mask is not None:
        sparse, description["sparse"] = pack_sparse(values.cpu(), mask.cpu())
        if quantized is not None:
            del parts[CODES]
            sparse[_VALUES] = pack_bits(sparse[_VALUES], quantized.bits)
        parts |= sparse
    return {name: part.cpu().contiguous() for name, part in parts.items()}, description


def unpacked(parts: dict[str, Tensor], description: Mapping[str, Any]) -> Tensor:
    """Return a packed tensor's values."""
    how, sparse = description.get("quantized"), description.get("sparse")
    if sparse is None:
        return QuantizedTensor.from_tensors(parts, how or {}).dequantize()
    if how is None:
        return unpack_sparse(parts, sparse)
    codes = unpack_bits(parts.pop(_VALUES), how["bits"], sparse["count"])
    mask = unpack_sparse({**parts, _VALUES: torch.ones_like(codes)}, sparse)
    parts[CODES] = pack_bits(unpack_sparse({**parts, _VALUES: codes}, sparse), how["bits"])
    return QuantizedTensor.from_tensors(parts, how).dequantize() * mask
