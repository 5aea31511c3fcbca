"""What every quantizer must hold to, the user's own as well."""

from __future__ import annotations

import itertools

import pytest
import torch
from quantized import make_config, make_weight

from rl_compress.errors import ConfigError
from rl_compress.quantizers.factory import make_quantizer
from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.registry import QUANTIZERS
from rl_compress.space.space_config import Granularity, QuantizationConfig

ALL = [*QUANTIZERS.built_in, "own_quantizer:Even"]
BITS = (1, 2, 3, 4, 8)
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")


@pytest.mark.parametrize(
    ("name", "bits", "granularity"), itertools.product(ALL, BITS, GRANULARITIES)
)
def test_every_quantizer_conforms(name: str, bits: int, granularity: Granularity) -> None:
    weight = make_weight()
    before = weight.clone()
    found = quantize_tensor(weight, make_config(name, bits, granularity=granularity))
    values = found.dequantize()
    assert torch.equal(weight, before)
    assert values.shape == weight.shape
    assert values.isfinite().all()
    assert found.codes.dtype == torch.uint8
    assert int(found.codes.max()) < 1 << bits
    blocks = {"tensor": 1, "channel": 6, "group": 6 * 72 // 24}[granularity]
    assert all(len(parameter) == blocks for parameter in found.parameters.values())
    by_block = found.blocking.split(values)
    assert all(len(block.unique()) <= 1 << bits for block in by_block)
    # What is stored is all that is needed, and takes what is said.
    tensors = found.to_tensors()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert found.packed_bytes == stored
    again = QuantizedTensor.from_tensors(tensors, found.describe())
    assert torch.equal(again.dequantize(), values)
    assert torch.equal(again.codes, found.codes)


@pytest.mark.parametrize("name", [name for name in ALL if name != "cumulative_shift"])
@pytest.mark.parametrize("bits", BITS)
def test_levels_are_fixed_points_and_the_nearest_is_taken(name: str, bits: int) -> None:
    blocks = make_weight(shape=(4, 50))
    quantizer = make_quantizer(name, bits, QuantizationConfig())
    parameters = quantizer.fit(blocks)
    levels = quantizer.levels(parameters)
    assert levels.shape == (4, 1 << bits)
    assert (levels.diff(dim=1) >= 0).all()
    values = quantizer.decode(quantizer.encode(blocks, parameters), parameters)
    distances = (blocks[:, :, None] - levels[:, None, :]).abs()
    torch.testing.assert_close((blocks - values).abs(), distances.amin(dim=2))
    assert torch.equal(quantizer.decode(quantizer.encode(values, parameters), parameters), values)
    torch.testing.assert_close(quantizer.fake_quantize(blocks, parameters), values)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 1e30])
def test_a_constant_block_is_no_trouble(name: str, value: float) -> None:
    values = quantize_tensor(torch.full((2, 24), value), make_config(name, 4)).dequantize()
    assert values.isfinite().all()
    if name not in ("cumulative_shift", "polynomial") and abs(value) < 1e20:
        torch.testing.assert_close(values, torch.full((2, 24), value), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    weight = make_weight()
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"conv\.weight: .*NaN"):
        quantize_tensor(weight, make_config(name), name="conv.weight")


@pytest.mark.parametrize("name", ALL)
def test_more_bits_lose_less(name: str) -> None:
    weight = make_weight(shape=(8, 400))
    errors = [quantize_tensor(weight, make_config(name, bits)).sqnr_db(weight) for bits in BITS]
    assert errors == sorted(errors)
