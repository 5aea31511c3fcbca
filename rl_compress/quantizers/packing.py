"""Packing: codes of 1 to 8 bits, one after the other, in bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack codes, lowest bit first, without gaps between them.

    Args:
        codes: Bytes below ``2^bits``, any shape.
        bits: Bits of each code, 1 to 8.

    Returns:
        Bytes, shape ``(ceil(codes * bits / 8),)``.
    """
    flat = codes.reshape(-1).to(torch.uint8)
    stream = _shifted(flat, bits).reshape(-1)
    padded = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.int32, device=codes.device)
    return (padded.to(torch.int32) * weights).sum(dim=1).to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` codes of ``packed``, as bytes of shape ``(count,)``."""
    stream = _shifted(packed, 8).reshape(-1)[: count * bits].reshape(count, bits)
    weights = torch.tensor([1 << b for b in range(bits)], dtype=torch.int32, device=packed.device)
    return (stream.to(torch.int32) * weights).sum(dim=1).to(torch.uint8)


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` codes take."""
    return -(-count * bits // 8)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Return the bits of bytes, lowest first, shape ``(num_values, bits)``."""
    shifts = torch.arange(bits, dtype=torch.uint8, device=values.device)
    return (values[:, None] >> shifts) & 1
