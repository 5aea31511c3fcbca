from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.quantizers.packing import pack_bits, packed_bytes, unpack_bits


@given(bits=st.integers(1, 8), data=st.data())
def test_codes_come_back_from_as_few_bytes_as_there_can_be(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=60))
    tensor = torch.tensor(codes, dtype=torch.uint8)
    packed = pack_bits(tensor, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(len(codes), bits) == -(-len(codes) * bits // 8)
    assert unpack_bits(packed, bits, len(codes)).tolist() == codes


@pytest.mark.parametrize(
    ("bits", "codes", "packed"),
    [
        (1, [1, 0, 1, 1], [0b1101]),
        (4, [0x3, 0xA, 0xF], [0xA3, 0x0F]),
        (3, [0b101, 0b010, 0b111], [0b11010101, 0b1]),
        (8, [7, 255], [7, 255]),
    ],
)
def test_the_lowest_bit_comes_first(bits: int, codes: list[int], packed: list[int]) -> None:
    assert pack_bits(torch.tensor(codes), bits).tolist() == packed
