from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.projection import project
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace
from rl_compress.space.space_config import PruningConfig, QuantizationConfig, SpaceConfig
from rl_compress.variants.compressor import Compressor

DRAWS = 100
"""Wishes for every space and budget that hypothesis makes up."""
BITS = (2, 3, 4, 5, 6, 8)


class Sum(LoopedBatch):
    """Every unit costs the same."""

    def of(self, amounts: Amounts) -> dict[str, int]:
        return {"macs": int(amounts.sum())}


class Joint:
    """A chain of layers of which width, weight bits and activation bits are decided.

    Bits cost no MACs and no parameters, activation bits no bytes, and the last layer's weights are
    not quantized.
    """

    def __init__(self, space: SearchSpace, areas: list[int]) -> None:
        self.space, self.areas = space, np.array(areas)

    def costs(self, levels: Levels) -> dict[str, int]:
        return {cost: int(values[0]) for cost, values in self.batch(levels[None]).items()}

    def batch(self, levels: Levels) -> dict[str, npt.NDArray[np.int64]]:
        layers, widths = len(self.areas), self.space.amounts(levels)
        outputs = widths[:, :layers]
        weight_bits, activation_bits = widths[:, layers : 2 * layers], widths[:, 2 * layers :]
        inputs = np.concatenate([np.full((len(widths), 1), 3), outputs[:, :-1]], axis=1)
        params = inputs * outputs
        stored = -(-params * weight_bits // 8)
        stored[:, -1] = 4 * params[:, -1]
        macs = params * self.areas
        return {
            "macs": macs.sum(1),
            "params": params.sum(1),
            "size_bytes": stored.sum(1),
            "bops": (macs * weight_bits * activation_bits).sum(1),
            "peak_memory_bytes": (outputs * self.areas * activation_bits).max(1),
        }


Case = tuple[SearchSpace, CostFunction, Budget, np.random.Generator]


def _budget(
    draw: st.DrawFn, space: SearchSpace, cost_function: CostFunction, bounded: list[str]
) -> Budget:
    """Draw a feasible budget, often at the smallest costs or at those of the whole target."""
    smallest = cost_function.costs(space.smallest)
    full = cost_function.costs(space.full)
    shares = st.one_of(st.floats(0.0, 1.1), st.sampled_from([0.0, 1.0]))
    costs = draw(st.lists(st.sampled_from(bounded), min_size=1, unique=True))
    return Budget(
        tuple((c, smallest[c] + draw(shares) * (full[c] - smallest[c])) for c in sorted(costs))
    )


@st.composite
def joint_cases(draw: st.DrawFn) -> Case:
    """Draw a space of widths and bits, a feasible budget on several costs, and a seed."""
    layers = draw(st.integers(1, 4))
    dimensions = []
    for index in range(layers):
        config = PruningConfig(
            max_ratio=draw(st.floats(0.0, 0.95)), round_to=draw(st.sampled_from([1, 1, 2, 4]))
        )
        units = draw(st.integers(2, 24))
        dimensions.append(Dimension.of_channels(f"layer{index}", units, 1, config))
    for name in ("weights", "activations"):
        for index in range(layers):
            bits = draw(st.sampled_from([BITS, (4, 8), (8,), (2, 3, 4)]))
            dimensions.append(Dimension(f"{name}{index}", "channels", bits))
    space = SearchSpace(tuple(dimensions))
    costs = Joint(space, [draw(st.integers(1, 9)) for _ in range(layers)])
    budget = _budget(draw, space, costs, list(costs.costs(space.full)))
    return space, costs, budget, np.random.default_rng(draw(st.integers(0, 2**32)))


@pytest.fixture(scope="module")
def real() -> Compressor:
    """Return a residual network of which widths, weight bits and activation bits are decided."""
    bits = QuantizationConfig(weight_bits=list(BITS), activation_bits=[4, 6, 8])
    return Compressor.prepare(zoo.make("residual"), zoo.EXAMPLE, SpaceConfig(quantization=bits))


def _wish(space: SearchSpace, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw fractions kept; some wishes are even, some have extremes, some are allowed levels."""
    keep = rng.beta(*rng.choice([0.3, 1.0, 3.0], 2), len(space))
    if rng.random() < 0.3:
        keep = space.kept(space.nearest(keep * space.full_amounts))
    return keep


def _raised(space: SearchSpace, levels: Levels) -> Levels:
    """Return the levels with each dimension, alone, at its next one."""
    raised: Levels = levels + np.eye(len(space), dtype=np.int64)
    return raised[levels < space.full]


def _check(space: SearchSpace, costs: CostFunction, budget: Budget, keep: Any, fill: bool) -> None:
    levels = project(keep, budget, space, costs, fill=fill)
    assert levels.dtype == np.int64
    assert ((levels >= 0) & (levels <= space.full)).all()
    assert budget.admits(costs.costs(levels))
    again = project(space.kept(levels), budget, space, costs, fill=fill)
    assert again.tolist() == levels.tolist()
    raised = _raised(space, levels)
    if not fill:
        rounded = space.nearest(keep * space.full_amounts)
        assert (levels <= rounded).all()
        raised = raised[(raised <= rounded).all(axis=1)]
    assert not any(budget.admits(costs.costs(row)) for row in raised)


@settings(max_examples=60)
@given(joint_cases(), st.booleans())
def test_widths_and_bits_within_several_bounds(case: Case, fill: bool) -> None:
    space, costs, budget, rng = case
    for _ in range(DRAWS):
        _check(space, costs, budget, _wish(space, rng), fill)


@settings(max_examples=25)
@given(st.data(), st.booleans(), st.integers(0, 2**32))
def test_widths_of_a_real_model_within_several_bounds(
    real: Compressor, data: st.DataObject, fill: bool, seed: int
) -> None:
    bounded = ["macs", "params", "size_bytes", "bops", "peak_memory_bytes"]
    make = st.composite(_budget)
    budget = data.draw(make(real.space, real.costs, bounded))
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        _check(real.space, real.costs, budget, _wish(real.space, rng), fill)


@given(joint_cases(), st.floats(0.01, 60.0))
def test_no_common_factor_would_keep_more(case: Case, factor: float) -> None:
    space, costs, budget, rng = case
    keep = _wish(space, rng).clip(1e-6)
    levels = project(keep, budget, space, costs)
    scaled = space.nearest(np.minimum(keep * factor, 1.0) * space.full_amounts * (1 - 1e-9))
    assert not budget.admits(costs.costs(scaled)) or (scaled <= levels).all()


@given(joint_cases())
def test_without_fill_a_wish_that_fits_is_only_rounded(case: Case) -> None:
    space, costs, budget, rng = case
    keep = _wish(space, rng)
    rounded = space.nearest(keep * space.full_amounts)
    if budget.admits(costs.costs(rounded)):
        assert project(keep, budget, space, costs, fill=False).tolist() == rounded.tolist()


@given(joint_cases())
def test_an_ample_budget_keeps_everything(case: Case) -> None:
    space, costs, _, rng = case
    ample = Budget.parse({"macs": 1.0, "bops": 1.0}, costs.costs(space.full))
    levels = project(_wish(space, rng), ample, space, costs)
    assert levels.tolist() == space.full.tolist()


def _projected(
    wish: list[float] | npt.NDArray[Any],
    budget: Budget,
    space: SearchSpace,
    costs: CostFunction,
    **options: bool,
) -> Amounts:
    return space.amounts(project(np.array(wish), budget, space, costs, **options))


def _even_space(units: int, dimensions: int) -> SearchSpace:
    levels = tuple(range(1, units + 1))
    return SearchSpace(tuple(Dimension(f"g{i}", "channels", levels) for i in range(dimensions)))


@given(
    st.integers(2, 24),
    st.lists(st.floats(0.02, 1.0), min_size=2, max_size=5),
    st.floats(0.0, 1.0),
)
def test_equal_dimensions_keep_the_order_of_the_wish(
    units: int, keep: list[float], share: float
) -> None:
    space = _even_space(units, len(keep))
    low, high = space.amounts(space.smallest).sum(), space.full_amounts.sum()
    budget = Budget((("macs", float(low + share * (high - low))),))
    widths = _projected(keep, budget, space, Sum(space))
    by_wish = [width for _, width in sorted(zip(keep, widths.tolist(), strict=True))]
    assert by_wish == sorted(by_wish)


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=5), st.integers(0, 100))
def test_a_budget_in_units_is_used_up(keep: list[float], extra: int) -> None:
    bound = min(len(keep) + extra, 20 * len(keep))
    space = _even_space(20, len(keep))
    widths = _projected(keep, Budget((("macs", bound),)), space, Sum(space))
    assert widths.sum() == bound


@pytest.mark.parametrize("fill", [True, False])
def test_all_dimensions_move_in_proportion(fill: bool) -> None:
    space, wish = _even_space(1000, 3), np.array([0.9, 0.6, 0.3])
    widths = _projected(wish, Budget((("macs", 600.0),)), space, Sum(space), fill=fill)
    assert widths.tolist() == [300, 200, 100]


def test_of_equal_costs_the_dimension_that_rounding_robbed_most_is_given_back_first() -> None:
    space = _even_space(10, 2)
    widths = _projected([0.3, 0.39], Budget((("macs", 7),)), space, Sum(space))
    assert widths.tolist() == [3, 4]


def test_what_rounding_left_is_given_back_by_marginal_cost() -> None:
    class Unequal(LoopedBatch):
        def of(self, amounts: Amounts) -> dict[str, int]:
            return {"macs": int(amounts @ [10, 5, 2])}

    # In proportion, 2 2 2 fits, and the third unit of the first dimension would be next. Of the
    # others the second was robbed of more, but the third gains more for what it costs.
    budget = Budget((("macs", 39.0),))
    space, wish = _even_space(10, 3), [0.29, 0.28, 0.27]
    widths = _projected(wish, budget, space, Unequal(space), fill=False)
    assert widths.tolist() == [2, 2, 3]


def test_a_dimension_that_a_bound_does_not_limit_keeps_its_wish() -> None:
    space = SearchSpace(
        (
            Dimension("layer", "channels", tuple(range(1, 21))),
            Dimension("weights", "channels", BITS),
            Dimension("activations", "channels", BITS),
        )
    )
    wish = np.array([1.0, 4 / 8, 5 / 8])
    costs = Joint(space, [4])
    halved = Budget.parse({"macs": 0.5}, costs.costs(space.full))
    assert _projected(wish, halved, space, costs, fill=False).tolist() == [10, 4, 5]
    assert _projected(wish, halved, space, costs).tolist() == [10, 8, 8]


def test_a_dimension_stopped_by_one_bound_does_not_hold_up_those_of_another() -> None:
    class Apart(LoopedBatch):
        def of(self, amounts: Amounts) -> dict[str, int]:
            return {"macs": int(amounts[0]), "params": int(amounts[1:].sum())}

    budget = Budget((("macs", 20.0), ("params", 90.0)))
    space = _even_space(100, 3)
    widths = _projected([1.0, 0.8, 0.4], budget, space, Apart(space), fill=False)
    assert widths.tolist() == [20, 60, 30]


def test_real_costs_are_within_though_their_sums_depend_on_the_batch() -> None:
    class Timed(Sum):
        """Single vectors round up what batches round down."""

        def of(self, amounts: Amounts) -> dict[str, Any]:
            return {"latency_ms": float(np.nextafter(0.1 * amounts.sum(), np.inf))}

        def batch(self, levels: Levels) -> dict[str, npt.NDArray[Any]]:
            total = self.space.amounts(levels).sum(axis=1)
            return {"latency_ms": np.nextafter(0.1 * total, -np.inf)}

    budget = Budget((("latency_ms", 0.1 * 7),))
    space = _even_space(10, 2)
    levels = project(np.array([0.5, 0.5]), budget, space, Timed(space))
    assert budget.admits(Timed(space).costs(levels))
    assert space.amounts(levels).sum() == 6


def test_no_bound_at_all_keeps_the_wish_or_everything() -> None:
    space, wish = _even_space(10, 2), np.array([0.3, 0.7])
    assert _projected(wish, Budget(()), space, Sum(space), fill=False).tolist() == [3, 7]
    assert _projected(wish, Budget(()), space, Sum(space)).tolist() == [10, 10]


@pytest.mark.parametrize("keep", [0.0, -3.0, 7.0])
def test_wishes_out_of_range_are_clipped(keep: float) -> None:
    space = _even_space(10, 2)
    widths = _projected(np.full(2, keep), Budget((("macs", 8.0),)), space, Sum(space))
    assert widths.tolist() == [4, 4]
