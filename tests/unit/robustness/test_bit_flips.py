from __future__ import annotations

import math
import random
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.robustness.bit_flips import StoredWeights, random_flips


@pytest.mark.parametrize(
    ("bit", "expected"),
    [
        (31, -0.75),  # the sign
        (30, 0.75 * 2.0**128),  # the top of the exponent: 126 becomes 254
        (24, 0.75 / 4),  # its second lowest bit: 126 becomes 124
        (23, 1.5),  # its lowest: 126 becomes 127
        (22, 0.5),  # the top of the fraction: 1.5 becomes 1
        (0, 0.75 + 2.0**-24),
    ],
)
def test_a_flipped_bit_of_a_float_is_as_by_hand(bit: int, expected: float) -> None:
    stored = StoredWeights.float32(torch.tensor([9.0, 0.75]))
    assert stored.flipped(1, bit).values().tolist() == [9.0, expected]
    assert float(stored.values_after_flip(bit)[1]) == expected


def test_the_top_exponent_bit_of_one_makes_infinity() -> None:
    stored = StoredWeights.float32(torch.tensor([1.0]))
    assert stored.flipped(0, 30).values().tolist() == [math.inf]


@given(st.floats(width=32, allow_nan=False), st.integers(0, 31))
def test_floats_flip_as_their_packed_bytes_do(value: float, bit: int) -> None:
    pattern = struct.unpack("<I", struct.pack("<f", value))[0] ^ (1 << bit)
    expected = struct.unpack("<f", struct.pack("<I", pattern))[0]
    found = float(StoredWeights.float32(torch.tensor([value])).flipped(0, bit).values())
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    ("bit", "code"),
    [(7, 5 - 128), (6, 5 + 64), (2, 5 - 4), (1, 5 + 2), (0, 5 - 1)],
)
def test_a_flipped_bit_of_an_integer_is_as_by_hand(bit: int, code: int) -> None:
    # The largest weight sets the scale: 127 steps of 1/4.
    stored = StoredWeights.integers(torch.tensor([[31.75, 1.25]]), 8)
    assert stored.values().tolist() == [[31.75, 1.25]]
    assert stored.flipped(1, bit).values().tolist() == [[31.75, code / 4]]


@given(st.integers(2, 8), st.data())
def test_integers_flip_in_twos_complement(bits: int, data: st.DataObject) -> None:
    largest = 2 ** (bits - 1) - 1
    code = data.draw(st.integers(-largest, largest))
    bit = data.draw(st.integers(0, bits - 1))
    stored = StoredWeights.integers(torch.tensor([[float(largest), float(code)]]), bits)
    pattern = (code % 2**bits) ^ (1 << bit)
    expected = pattern - 2**bits if pattern >= 2 ** (bits - 1) else pattern
    assert stored.flipped(1, bit).values()[0, 1] == expected


def test_integers_have_a_scale_for_each_output_channel() -> None:
    weight = torch.tensor([[1.0, -0.5], [100.0, 3.0], [0.0, 0.0]])
    stored = StoredWeights.integers(weight, 8)
    assert stored.codes[:, 0].tolist() == [127, 127, 0]
    assert torch.allclose(stored.values(), weight, atol=100 / 254)
    assert abs(float(stored.values()[0, 1]) + 0.5) <= 1 / 254
    along_columns = StoredWeights.integers(weight, 8, axis=1)
    assert along_columns.codes[1].tolist() == [127, 127]


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=6),
    st.sampled_from(["float32", "integer"]),
    st.data(),
)
def test_flipping_twice_restores(values: list[float], form: str, data: st.DataObject) -> None:
    weight = torch.tensor([values])
    if form == "float32":
        stored = StoredWeights.float32(weight)
    else:
        stored = StoredWeights.integers(weight, 5)
    bit = data.draw(st.integers(0, stored.bits - 1))
    index = data.draw(st.integers(0, len(values) - 1))
    once = stored.flipped(index, bit)
    assert int((once.codes != stored.codes).sum()) == 1
    assert torch.equal(once.flipped(index, bit).codes, stored.codes)


@pytest.mark.parametrize("bit", [-1, 8])
def test_a_bit_that_is_not_stored_is_refused(bit: int) -> None:
    with pytest.raises(ValueError, match="bit must be 0 to 7"):
        StoredWeights.integers(torch.ones(1, 2), 8).flipped(0, bit)


def test_random_flips_are_distinct_and_repeatable() -> None:
    stored = {
        "a": StoredWeights.integers(torch.ones(1, 3), 4),
        "b": StoredWeights.float32(torch.ones(2)),
    }
    everything = random_flips(stored, 10**6, random.Random(0))
    # Every bit once: all of a code's bits flipped give its complement.
    assert torch.equal(everything["a"].codes, ~stored["a"].codes)
    assert torch.equal(everything["b"].codes, ~stored["b"].codes)
    one, other = (random_flips(stored, 3, random.Random(5)) for _ in range(2))
    assert {n: w.codes.tolist() for n, w in one.items()} == {
        n: w.codes.tolist() for n, w in other.items()
    }
    assert stored["a"].codes.tolist() == [[7, 7, 7]]
