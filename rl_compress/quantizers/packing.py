"""Packing: codes of 1 to 8 bits, one after the other, in bytes.

Eight codes fill as many bytes as a code has bits, which are read as one number, lowest byte first.
"""

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
    count = codes.numel()
    eights = torch.nn.functional.pad(codes.reshape(-1), (0, -count % 8)).reshape(-1, 8)
    words = torch.zeros(len(eights), dtype=torch.int64, device=codes.device)
    for place in range(8):
        words |= eights[:, place].long() << bits * place
    return words.view(torch.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: packed_bytes(count, bits)]


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first ``count`` codes of ``packed``, as bytes of shape ``(count,)``."""
    groups = torch.nn.functional.pad(packed, (0, -len(packed) % bits)).reshape(-1, bits)
    words = torch.zeros(len(groups), dtype=torch.int64, device=packed.device)
    for byte in range(bits):
        words |= groups[:, byte].long() << 8 * byte
    codes = packed.new_empty(len(groups), 8)
    for place in range(8):
        codes[:, place] = (words >> bits * place) & (1 << bits) - 1
    return codes.reshape(-1)[:count]


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` codes take."""
    return -(-count * bits // 8)
