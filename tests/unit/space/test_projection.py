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
from rl_compress.space.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.space.space_config import PruningConfig, QuantizationConfig, SpaceConfig
from rl_compress.variants.compressor import Compressor

DRAWS = 100
"""Wishes for every space and budget that hypothesis makes up."""
BITS = (2, 3, 4, 5, 6, 8)


class Sum(LoopedBatch):
    """Every unit costs the same."""

    def costs(self, widths: Widths) -> dict[str, int]:
        return {"macs": int(widths.sum())}


class Joint:
    """A chain of layers of which width, weight bits and activation bits are decided.

    Bits cost no MACs and no parameters, activation bits no bytes, and the last layer's weights are
    not quantized.
    """

    def __init__(self, areas: list[int]) -> None:
        self.areas = np.array(areas)

    def costs(self, widths: Widths) -> dict[str, int]:
        return {cost: int(values[0]) for cost, values in self.batch(widths[None]).items()}

    def batch(self, widths: Widths) -> dict[str, npt.NDArray[np.int64]]:
        layers = len(self.areas)
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
    smallest = cost_function.costs(space.smallest_widths)
    full = cost_function.costs(space.full_widths)
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
        dimensions.append(GroupChoices.from_config(f"layer{index}", units, 1, config))
    for name in ("weights", "activations"):
        for index in range(layers):
            bits = draw(st.sampled_from([BITS, (4, 8), (8,), (2, 3, 4)]))
            dimensions.append(GroupChoices(f"{name}{index}", bits[-1], bits))
    space = SearchSpace(tuple(dimensions))
    costs = Joint([draw(st.integers(1, 9)) for _ in range(layers)])
    budget = _budget(draw, space, costs, list(costs.costs(space.full_widths)))
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
        keep = space.nearest(keep * space.num_units) / space.num_units
    return keep


def _raised(space: SearchSpace, widths: Widths) -> Widths:
    """Return the widths with each dimension, alone, at its next level."""
    found = []
    for index, group in enumerate(space.groups):
        if widths[index] < group.num_units:
            found.append(widths.copy())
            found[-1][index] = min(level for level in group.widths if level > widths[index])
    return np.array(found, dtype=np.int64).reshape(-1, len(space))


def _check(space: SearchSpace, costs: CostFunction, budget: Budget, keep: Any, fill: bool) -> None:
    widths = project(keep, budget, space, costs, fill=fill)
    assert widths.dtype == np.int64
    assert all(width in group.widths for width, group in zip(widths, space.groups, strict=True))
    assert budget.admits(costs.costs(widths))
    again = project(widths / space.num_units, budget, space, costs, fill=fill)
    assert again.tolist() == widths.tolist()
    raised = _raised(space, widths)
    if not fill:
        rounded = space.nearest(keep * space.num_units)
        assert (widths <= rounded).all()
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
    widths = project(keep, budget, space, costs)
    scaled = space.nearest(np.minimum(keep * factor, 1.0) * space.num_units * (1 - 1e-9))
    assert not budget.admits(costs.costs(scaled)) or (scaled <= widths).all()


@given(joint_cases())
def test_without_fill_a_wish_that_fits_is_only_rounded(case: Case) -> None:
    space, costs, budget, rng = case
    keep = _wish(space, rng)
    rounded = space.nearest(keep * space.num_units)
    if budget.admits(costs.costs(rounded)):
        assert project(keep, budget, space, costs, fill=False).tolist() == rounded.tolist()


@given(joint_cases())
def test_an_ample_budget_keeps_everything(case: Case) -> None:
    space, costs, _, rng = case
    ample = Budget.parse({"macs": 1.0, "bops": 1.0}, costs.costs(space.full_widths))
    widths = project(_wish(space, rng), ample, space, costs)
    assert widths.tolist() == space.full_widths.tolist()


def _even_space(units: int, dimensions: int) -> SearchSpace:
    levels = tuple(range(1, units + 1))
    return SearchSpace(tuple(GroupChoices(f"g{i}", units, levels) for i in range(dimensions)))


@given(
    st.integers(2, 24),
    st.lists(st.floats(0.02, 1.0), min_size=2, max_size=5),
    st.floats(0.0, 1.0),
)
def test_equal_dimensions_keep_the_order_of_the_wish(
    units: int, keep: list[float], share: float
) -> None:
    space = _even_space(units, len(keep))
    low, high = space.smallest_widths.sum(), space.full_widths.sum()
    budget = Budget((("macs", float(low + share * (high - low))),))
    widths = project(np.array(keep), budget, space, Sum())
    by_wish = [width for _, width in sorted(zip(keep, widths.tolist(), strict=True))]
    assert by_wish == sorted(by_wish)


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=5), st.integers(0, 100))
def test_a_budget_in_units_is_used_up(keep: list[float], extra: int) -> None:
    bound = min(len(keep) + extra, 20 * len(keep))
    space = _even_space(20, len(keep))
    widths = project(np.array(keep), Budget((("macs", bound),)), space, Sum())
    assert widths.sum() == bound


@pytest.mark.parametrize("fill", [True, False])
def test_all_dimensions_move_in_proportion(fill: bool) -> None:
    space, wish = _even_space(1000, 3), np.array([0.9, 0.6, 0.3])
    widths = project(wish, Budget((("macs", 600.0),)), space, Sum(), fill=fill)
    assert widths.tolist() == [300, 200, 100]


def test_of_equal_costs_the_dimension_that_rounding_robbed_most_is_given_back_first() -> None:
    widths = project(np.array([0.3, 0.39]), Budget((("macs", 7),)), _even_space(10, 2), Sum())
    assert widths.tolist() == [3, 4]


def test_what_rounding_left_is_given_back_by_marginal_cost() -> None:
    class Unequal(LoopedBatch):
        def costs(self, widths: Widths) -> dict[str, int]:
            return {"macs": int(widths @ [10, 5, 2])}

    # In proportion, 2 2 2 fits, and the third unit of the first dimension would be next. Of the
    # others the second was robbed of more, but the third gains more for what it costs.
    budget = Budget((("macs", 39.0),))
    wish = np.array([0.29, 0.28, 0.27])
    widths = project(wish, budget, _even_space(10, 3), Unequal(), fill=False)
    assert widths.tolist() == [2, 2, 3]


def test_a_dimension_that_a_bound_does_not_limit_keeps_its_wish() -> None:
    space = SearchSpace(
        (
            GroupChoices("layer", 20, tuple(range(1, 21))),
            GroupChoices("weights", 8, BITS),
            GroupChoices("activations", 8, BITS),
        )
    )
    wish = np.array([1.0, 4 / 8, 5 / 8])
    halved = Budget.parse({"macs": 0.5}, Joint([4]).costs(space.full_widths))
    assert project(wish, halved, space, Joint([4]), fill=False).tolist() == [10, 4, 5]
    assert project(wish, halved, space, Joint([4])).tolist() == [10, 8, 8]


def test_a_dimension_stopped_by_one_bound_does_not_hold_up_those_of_another() -> None:
    class Apart(LoopedBatch):
        def costs(self, widths: Widths) -> dict[str, int]:
            return {"macs": int(widths[0]), "params": int(widths[1:].sum())}

    budget = Budget((("macs", 20.0), ("params", 90.0)))
    widths = project(np.array([1.0, 0.8, 0.4]), budget, _even_space(100, 3), Apart(), fill=False)
    assert widths.tolist() == [20, 60, 30]


def test_real_costs_are_within_though_their_sums_depend_on_the_batch() -> None:
    class Timed(Sum):
        """Single vectors round up what batches round down."""

        def costs(self, widths: Widths) -> dict[str, Any]:
            return {"latency_ms": float(np.nextafter(0.1 * widths.sum(), np.inf))}

        def batch(self, widths: Widths) -> dict[str, npt.NDArray[Any]]:
            return {"latency_ms": np.nextafter(0.1 * widths.sum(axis=1), -np.inf)}

    budget = Budget((("latency_ms", 0.1 * 7),))
    widths = project(np.array([0.5, 0.5]), budget, _even_space(10, 2), Timed())
    assert budget.admits(Timed().costs(widths))
    assert widths.sum() == 6


def test_no_bound_at_all_keeps_the_wish_or_everything() -> None:
    space, wish = _even_space(10, 2), np.array([0.3, 0.7])
    assert project(wish, Budget(()), space, Sum(), fill=False).tolist() == [3, 7]
    assert project(wish, Budget(()), space, Sum()).tolist() == [10, 10]


@pytest.mark.parametrize("keep", [0.0, -3.0, 7.0])
def test_wishes_out_of_range_are_clipped(keep: float) -> None:
    widths = project(np.full(2, keep), Budget((("macs", 8.0),)), _even_space(10, 2), Sum())
    assert widths.tolist() == [4, 4]
