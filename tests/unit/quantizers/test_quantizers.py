"""What is particular to each quantizer; what all have in common is in tests/conformance."""

from __future__ import annotations

import pytest
import torch
from quantized import make_config, make_weight

from rl_compress.errors import ConfigError
from rl_compress.quantizers.cumulative_shift import CumulativeShift
from rl_compress.quantizers.error import sqnr_db
from rl_compress.quantizers.factory import make_quantizer
from rl_compress.quantizers.polynomial import Polynomial, compand, expand, fit_compander
from rl_compress.quantizers.quantized_tensor import quantize_tensor
from rl_compress.quantizers.ranges import make_clip
from rl_compress.registry import QUANTIZERS
from rl_compress.space.space_config import Granularity, QuantizationConfig

ALL = sorted(QUANTIZERS.built_in)
BITS = (1, 2, 3, 4, 8)
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["symmetric", "uniform"])
def test_without_clipping_no_value_is_off_by_more_than_half_a_step(name: str, bits: int) -> None:
    weight = make_weight(shape=(4, 100))
    found = quantize_tensor(weight, make_config(name, bits, range="minmax"))
    error = (found.dequantize() - weight).abs().amax(dim=1, keepdim=True)
    assert (error <= found.parameters["scale"] / 2 + 1e-5).all()


def test_symmetric_levels_by_hand() -> None:
    weight = torch.tensor([[-1.0, 0.4, 0.26, 0.0, 0.1, 1.5]])
    found = quantize_tensor(weight, make_config("symmetric", 3, range="minmax"))
    assert found.parameters["scale"].item() == 0.5
    assert found.dequantize().tolist() == [[-1.0, 0.5, 0.5, 0.0, 0.0, 1.5]]


def test_one_bit_is_the_sign_times_the_mean() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    assert quantize_tensor(weight, make_config("symmetric", 1)).dequantize().tolist() == [
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
    weight = make_weight(kind, (16, 288), seed)
    piecewise = quantize_tensor(weight, make_config("piecewise", bits)).sqnr_db(weight)
    assert piecewise >= quantize_tensor(weight, make_config("uniform", bits)).sqnr_db(weight)


def test_piecewise_is_dense_in_the_centre_and_sparse_in_the_tails() -> None:
    quantizer = make_quantizer("piecewise", 4, QuantizationConfig())
    parameters = quantizer.fit(make_weight("laplace", (1, 5000)))
    levels = quantizer.levels(parameters)[0]
    steps = levels.diff()
    torch.testing.assert_close(levels, -levels.flip(0))
    assert steps[:4].min() > 1.5 * steps[5:10].max()
    torch.testing.assert_close(steps[4:11], steps[5].expand(7))


def test_shift_scales_are_powers_of_two_in_a_byte() -> None:
    found = quantize_tensor(make_weight(), make_config("cumulative_shift", 4))
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
    weight = make_weight(shape=(32, 288))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(500, 288, generator=generator).relu()  # as after a ReLU
    found = quantize_tensor(weight, make_config("cumulative_shift", 4))
    levels = found.quantizer.levels(found.parameters)
    plain = levels.gather(1, (weight[:, :, None] - levels[:, None, :]).abs().argmin(dim=2))
    with_feedback = (inputs @ (found.dequantize() - weight).T).square().mean()
    without = (inputs @ (plain - weight).T).square().mean()
    assert with_feedback < 0.95 * without


def test_weights_that_contribute_little_are_pruned() -> None:
    weight = make_weight(shape=(8, 288))
    plain = quantize_tensor(weight, make_config("cumulative_shift", 8))
    config = make_config("cumulative_shift", 8, contribution_threshold=0.2)
    pruned = quantize_tensor(weight, config)
    limit = 0.2 * weight.abs().amax(dim=1, keepdim=True)
    assert (pruned.dequantize() == 0).float().mean() > 3 * (plain.dequantize() == 0).float().mean()
    # Of the others none is small, but for what a neighbour's error adds.
    left = pruned.dequantize().abs()
    assert ((left == 0) | (left > 0.9 * limit)).all()
    assert ((weight.abs() < 0.5 * limit) <= (left == 0)).all()


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
def test_the_polynomial_is_odd_increasing_and_smooth(kind: str) -> None:
    blocks = make_weight(kind, (8, 500))
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
    values = make_weight("laplace", (1, 400)).sort(dim=1).values
    parameters = quantizer.fit(values)
    rounded = quantizer.fake_quantize(values, parameters)
    assert (rounded.diff(dim=1) >= 0).all()
    torch.testing.assert_close(quantizer.fake_quantize(-values, parameters), -rounded)


def test_kmeans_finds_clusters() -> None:
    centres = torch.tensor([-3.0, -1.0, 2.0, 5.0])
    blocks = (centres.repeat(50) + 0.01 * make_weight(shape=(200,)))[None]
    quantizer = make_quantizer("kmeans", 2, QuantizationConfig())
    found = quantizer.fit(blocks)["codebook"]
    torch.testing.assert_close(found, centres[None], atol=0.05, rtol=0)


def test_groups_that_do_not_divide_are_refused() -> None:
    config = QuantizationConfig(weight_bits=4, granularity="group", group_size=7)
    with pytest.raises(ConfigError, match=r"space\.quantization\.group_size: .* 7 .*72 .*conv"):
        quantize_tensor(make_weight(), config, name="conv")


def test_transposed_convolutions_have_their_outputs_on_the_second_axis() -> None:
    weight = make_weight(shape=(3, 5, 2, 2)) * torch.tensor([1.0, 10, 100, 1e3, 1e4])[:, None, None]
    found = quantize_tensor(weight, make_config("symmetric", 8), output_axis=1)
    assert len(found.parameters["scale"]) == 5
    assert found.dequantize().shape == weight.shape
    assert all(sqnr_db(weight[:, i], found.dequantize()[:, i]) > 30 for i in range(5))


def test_the_same_weight_gives_the_same_codes() -> None:
    for name in ALL:
        first, second = (quantize_tensor(make_weight(), make_config(name, 3)) for _ in range(2))
        assert torch.equal(first.codes, second.codes)
