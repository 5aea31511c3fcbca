"""One conformance test over all quantizers, and what is particular to each."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.quantizers.cumulative_shift import CumulativeShift
from rl_compress.quantizers.error import sqnr_db
from rl_compress.quantizers.factory import make_quantizer
from rl_compress.quantizers.polynomial import Polynomial, compand, expand, fit_compander
from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.quantizers.ranges import make_clip
from rl_compress.registry import QUANTIZERS
from rl_compress.space.space_config import Granularity, QuantizationConfig

ALL = sorted(QUANTIZERS.built_in)
BITS = (1, 2, 3, 4, 8)
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")


def _weight(kind: str = "gauss", shape: tuple[int, ...] = (6, 8, 3, 3), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "gauss":
        return torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs() * 0.9999)


def _config(name: str, bits: int = 4, **changes: object) -> QuantizationConfig:
    return QuantizationConfig(quantizer=name, weight_bits=bits, group_size=24, **changes)


@pytest.mark.parametrize(
    ("name", "bits", "granularity"), itertools.product(ALL, BITS, GRANULARITIES)
)
def test_every_quantizer_conforms(name: str, bits: int, granularity: Granularity) -> None:
    weight = _weight()
    before = weight.clone()
    found = quantize_tensor(weight, _config(name, bits, granularity=granularity))
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
    blocks = _weight(shape=(4, 50))
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
    values = quantize_tensor(torch.full((2, 24), value), _config(name, 4)).dequantize()
    assert values.isfinite().all()
    if name not in ("cumulative_shift", "polynomial") and abs(value) < 1e20:
        torch.testing.assert_close(values, torch.full((2, 24), value), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    weight = _weight()
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"conv\.weight: .*NaN"):
        quantize_tensor(weight, _config(name), name="conv.weight")


@pytest.mark.parametrize("name", ALL)
def test_more_bits_lose_less(name: str) -> None:
    weight = _weight(shape=(8, 400))
    errors = [quantize_tensor(weight, _config(name, bits)).sqnr_db(weight) for bits in BITS]
    assert errors == sorted(errors)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["symmetric", "uniform"])
def test_without_clipping_no_value_is_off_by_more_than_half_a_step(name: str, bits: int) -> None:
    weight = _weight(shape=(4, 100))
    found = quantize_tensor(weight, _config(name, bits, range="minmax"))
    error = (found.dequantize() - weight).abs().amax(dim=1, keepdim=True)
    assert (error <= found.parameters["scale"] / 2 + 1e-5).all()


def test_symmetric_levels_by_hand() -> None:
    weight = torch.tensor([[-1.0, 0.4, 0.26, 0.0, 0.1, 1.5]])
    found = quantize_tensor(weight, _config("symmetric", 3, range="minmax"))
    assert found.parameters["scale"].item() == 0.5
    assert found.dequantize().tolist() == [[-1.0, 0.5, 0.5, 0.0, 0.0, 1.5]]


def test_one_bit_is_the_sign_times_the_mean() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    assert quantize_tensor(weight, _config("symmetric", 1)).dequantize().tolist() == [
        [3.0, -3.0, 3.0, -3.0]
    ]


def test_uniform_grids_of_values_that_are_never_negative_begin_at_zero() -> None:
    quantizer = make_quantizer("uniform", 2, QuantizationConfig(range="minmax"))
    parameters = quantizer.fit(torch.tensor([[0.5, 1.0, 3.0]]))
    assert quantizer.levels(parameters).tolist() == [[0.0, 1.0, 2.0, 3.0]]


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_piecewise_is_no_worse_than_uniform_on_bell_shapes(kind: str, bits: int, seed: int) -> None:
    weight = _weight(kind, (16, 288), seed)
    piecewise = quantize_tensor(weight, _config("piecewise", bits)).sqnr_db(weight)
    assert piecewise >= quantize_tensor(weight, _config("uniform", bits)).sqnr_db(weight)


def test_piecewise_is_dense_in_the_centre_and_sparse_in_the_tails() -> None:
    quantizer = make_quantizer("piecewise", 4, QuantizationConfig())
    parameters = quantizer.fit(_weight("laplace", (1, 5000)))
    levels = quantizer.levels(parameters)[0]
    steps = levels.diff()
    torch.testing.assert_close(levels, -levels.flip(0))
    assert steps[:4].min() > 1.5 * steps[5:10].max()
    torch.testing.assert_close(steps[4:11], steps[5].expand(7))


def test_shift_scales_are_powers_of_two_in_a_byte() -> None:
    found = quantize_tensor(_weight(), _config("cumulative_shift", 4))
    exponent = found.parameters["exponent"]
    assert exponent.dtype == torch.int8
    steps = found.blocking.split(found.dequantize()) / torch.exp2(exponent.float())
    assert torch.equal(steps, steps.round())


def test_rounding_errors_are_carried_on_by_hand() -> None:
    quantizer = CumulativeShift(3, make_clip("minmax", 3, 100.0))
    parameters = {"exponent": torch.zeros(1, 1, dtype=torch.int8)}
    blocks = torch.tensor([[0.4, 0.4, 0.6, 0.55, 1.2, 0.4]])
    # A third of each error, all but: .4 -> 0, carry .127; .527 -> 1, carry -.15; .45 -> 0, carry
    # .143; .693 -> 1, carry -.098; 1.102 -> 1, carry .033; .433 -> 0.
    codes = quantizer.encode(blocks, parameters)
    assert quantizer.decode(codes, parameters).tolist() == [[0.0, 1.0, 0.0, 1.0, 1.0, 0.0]]
    # In runs of one nothing is carried.
    codes = quantizer.encode(blocks, parameters, run=1)
    assert quantizer.decode(codes, parameters).tolist() == [[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]]


def test_error_feedback_lowers_the_error_of_the_output() -> None:
    weight = _weight(shape=(32, 288))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(500, 288, generator=generator).relu()  # as after a ReLU
    found = quantize_tensor(weight, _config("cumulative_shift", 4))
    levels = found.quantizer.levels(found.parameters)
    plain = levels.gather(1, (weight[:, :, None] - levels[:, None, :]).abs().argmin(dim=2))
    with_feedback = (inputs @ (found.dequantize() - weight).T).square().mean()
    without = (inputs @ (plain - weight).T).square().mean()
    assert with_feedback < 0.95 * without


def test_weights_that_contribute_little_are_pruned() -> None:
    weight = _weight(shape=(8, 288))
    plain = quantize_tensor(weight, _config("cumulative_shift", 8))
    config = _config("cumulative_shift", 8, contribution_threshold=0.2)
    pruned = quantize_tensor(weight, config)
    limit = 0.2 * weight.abs().amax(dim=1, keepdim=True)
    assert (pruned.dequantize() == 0).float().mean() > 3 * (plain.dequantize() == 0).float().mean()
    # Of the others none is small, but for what a neighbour's error adds.
    left = pruned.dequantize().abs()
    assert ((left == 0) | (left > 0.9 * limit)).all()
    assert ((weight.abs() < 0.5 * limit) <= (left == 0)).all()


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
def test_the_polynomial_is_odd_increasing_and_smooth(kind: str) -> None:
    blocks = _weight(kind, (8, 500))
    coefficients = fit_compander(blocks, blocks.abs().amax(dim=1, keepdim=True))
    grid = torch.linspace(-1, 1, 2001).expand(8, -1)
    curve = compand(grid, coefficients)
    assert (curve.diff(dim=1) > 0).all()
    torch.testing.assert_close(curve, -curve.flip(1))
    torch.testing.assert_close(curve[:, -1], torch.ones(8))
    torch.testing.assert_close(expand(curve, coefficients), grid, atol=1e-5, rtol=0)
    # Locally it is a line: over a hundredth of the range its slope changes by less than a tenth.
    slopes = curve.diff(dim=1)
    assert ((slopes[:, 10:] / slopes[:, :-10] - 1).abs() < 0.25).all()
    # Bell-shaped values get their levels where they are: steep in the centre.
    assert (slopes[:, 1000] > 1.3 * slopes[:, -1]).all()


def test_the_polynomial_quantizer_keeps_order_and_sign() -> None:
    quantizer = make_quantizer("polynomial", 4, QuantizationConfig())
    assert isinstance(quantizer, Polynomial)
    values = _weight("laplace", (1, 400)).sort(dim=1).values
    parameters = quantizer.fit(values)
    rounded = quantizer.fake_quantize(values, parameters)
    assert (rounded.diff(dim=1) >= 0).all()
    torch.testing.assert_close(quantizer.fake_quantize(-values, parameters), -rounded)


def test_kmeans_finds_clusters() -> None:
    centres = torch.tensor([-3.0, -1.0, 2.0, 5.0])
    blocks = (centres.repeat(50) + 0.01 * _weight(shape=(200,)))[None]
    quantizer = make_quantizer("kmeans", 2, QuantizationConfig())
    found = quantizer.fit(blocks)["codebook"]
    torch.testing.assert_close(found, centres[None], atol=0.05, rtol=0)


def test_groups_that_do_not_divide_are_refused() -> None:
    config = QuantizationConfig(weight_bits=4, granularity="group", group_size=7)
    with pytest.raises(ConfigError, match=r"space\.quantization\.group_size: .* 7 .*72 .*conv"):
        quantize_tensor(_weight(), config, name="conv")


def test_transposed_convolutions_have_their_outputs_on_the_second_axis() -> None:
    weight = _weight(shape=(3, 5, 2, 2)) * torch.tensor([1.0, 10, 100, 1e3, 1e4])[:, None, None]
    found = quantize_tensor(weight, _config("symmetric", 8), output_axis=1)
    assert len(found.parameters["scale"]) == 5
    assert found.dequantize().shape == weight.shape
    assert all(sqnr_db(weight[:, i], found.dequantize()[:, i]) > 30 for i in range(5))


def test_the_same_weight_gives_the_same_codes() -> None:
    for name in ALL:
        first, second = (quantize_tensor(_weight(), _config(name, 3)) for _ in range(2))
        assert torch.equal(first.codes, second.codes)
