from __future__ import annotations

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace


class Sum(LoopedBatch):
    """Every unit costs one."""

    def of(self, amounts: Amounts) -> dict[str, int]:
        total = int(amounts.sum())
        return {"macs": total, "params": total, "size_bytes": total}


class Chain(LoopedBatch):
    """MACs are products of neighbours."""

    def of(self, amounts: Amounts) -> dict[str, int]:
        total = int(amounts[0] + (amounts[:-1] * amounts[1:]).sum())
        return {"macs": total, "params": int(amounts.sum()), "size_bytes": total}


def _space(*units: int) -> SearchSpace:
    return SearchSpace(
        tuple(Dimension(f"g{i}", "channels", tuple(range(1, n + 1))) for i, n in enumerate(units))
    )


def _curves(space: SearchSpace, marginals: list[list[float]]) -> SensitivityCurves:
    """Measure every width; ``marginals`` are the losses of the first unit removed, the second …"""
    amounts = tuple(tuple(reversed(own.amounts)) for own in space.dimensions)
    scores = tuple(
        tuple(
            -np.concatenate([[0.0], np.cumsum(losses)]).round(9).tolist()[i] for i in range(len(a))
        )
        for losses, a in zip(marginals, amounts, strict=True)
    )
    return SensitivityCurves(tuple(own.site for own in space.dimensions), amounts, scores)


def _loss(curves: SensitivityCurves, amounts: Amounts) -> float:
    """Return what the curves predict if losses of dimensions add up."""
    return sum(curves.drop_at(index, amount) for index, amount in enumerate(amounts.tolist()))


def _prior(
    curves: SensitivityCurves, budget: Budget, space: SearchSpace, costs: CostFunction
) -> Amounts:
    return space.amounts(greedy_levels(curves, budget, space, costs))


@st.composite
def additive_toys(draw: st.DrawFn) -> tuple[SearchSpace, SensitivityCurves, int]:
    """Draw groups that lose more with every further unit, and a budget in units."""
    space = _space(*draw(st.lists(st.integers(2, 5), min_size=2, max_size=4)))
    losses = st.integers(0, 1000).map(lambda n: n / 100)
    marginals = [
        sorted(draw(st.lists(losses, min_size=n - 1, max_size=n - 1)))
        for n in space.full_amounts.tolist()
    ]
    bound = draw(st.integers(len(space), int(space.full_amounts.sum())))
    return space, _curves(space, marginals), bound


@given(additive_toys())
def test_prior_is_optimal_where_losses_add_up_and_increase(
    toy: tuple[SearchSpace, SensitivityCurves, int],
) -> None:
    space, curves, bound = toy
    found = _prior(curves, Budget((("macs", bound),)), space, Sum(space))
    feasible = [
        amounts
        for amounts in itertools.product(*(own.amounts for own in space.dimensions))
        if sum(amounts) <= bound
    ]
    assert found.sum() <= bound
    best = min(_loss(curves, np.array(amounts)) for amounts in feasible)
    assert abs(_loss(curves, found) - best) < 1e-9


@st.composite
def chains(draw: st.DrawFn) -> tuple[SearchSpace, SensitivityCurves, Budget]:
    """Draw any curves, measured at some widths, and a budget of one or two costs."""
    space = _space(*draw(st.lists(st.integers(2, 10), min_size=1, max_size=4)))
    widths = [
        (own.full, *sorted(draw(st.sets(st.sampled_from(own.amounts[:-1]))), reverse=True))
        for own in space.dimensions
    ]
    # Without its lowest level measured, a dimension would never be cut far enough.
    widths = [(*w, 1) if w[-1] > 1 else w for w in widths]
    scores = tuple(tuple(draw(st.floats(-2, 0)) for _ in measured) for measured in widths)
    curves = SensitivityCurves(tuple(d.site for d in space.dimensions), tuple(widths), scores)
    low, high = (Chain(space).costs(levels) for levels in (space.smallest, space.full))
    bounds = tuple(
        (cost, low[cost] + draw(st.floats(0, 1)) * (high[cost] - low[cost]))
        for cost in draw(st.sampled_from([("macs",), ("macs", "params")]))
    )
    return space, curves, Budget(bounds)


@given(chains())
def test_prior_meets_the_budget_and_leaves_nothing_over(
    case: tuple[SearchSpace, SensitivityCurves, Budget],
) -> None:
    space, curves, budget = case
    levels, costs = greedy_levels(curves, budget, space, Chain(space)), Chain(space)
    assert budget.admits(costs.costs(levels))
    for index in np.flatnonzero(levels < space.full):
        higher = levels.copy()
        higher[index] += 1
        assert not budget.admits(costs.costs(higher))


def test_an_ample_budget_keeps_everything() -> None:
    space = _space(4, 3)
    curves = _curves(space, [[0.1, 0.2, 0.3], [0.1, 0.2]])
    assert _prior(curves, Budget((("macs", 7),)), space, Sum(space)).tolist() == [4, 3]


def test_the_tightest_feasible_budget_keeps_the_smallest() -> None:
    space = _space(4, 3)
    curves = _curves(space, [[0.1, 0.2, 0.3], [0.1, 0.2]])
    assert _prior(curves, Budget((("macs", 2),)), space, Sum(space)).tolist() == [1, 1]


def test_the_insensitive_group_is_cut_first() -> None:
    space = _space(5, 5)
    curves = _curves(space, [[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
    assert _prior(curves, Budget((("macs", 7),)), space, Sum(space)).tolist() == [5, 2]


def test_losses_are_weighed_against_the_cost_that_they_save() -> None:
    class Unequal(LoopedBatch):
        def of(self, amounts: Amounts) -> dict[str, int]:
            total = int(10 * amounts[0] + amounts[1])
            return {"macs": total, "params": total, "size_bytes": total}

    space = _space(3, 9)
    curves = _curves(space, [[0.2, 0.2], [0.1] * 8])
    # One unit of the first group saves what is needed for 0.2; five of the second would lose 0.5.
    assert _prior(curves, Budget((("macs", 34),)), space, Unequal(space)).tolist() == [2, 9]


class Joint:
    """Convolutions in a row; the second half of the vector are the bits of their weights."""

    def __init__(self, space: SearchSpace, areas: list[int]) -> None:
        self.space, self.areas = space, np.array(areas)

    def batch(self, levels: Levels) -> dict[str, npt.NDArray[np.int64]]:
        channels, bits = np.split(self.space.amounts(levels), 2, axis=1)
        inputs = np.concatenate([np.full((len(channels), 1), 3), channels[:, :-1]], axis=1)
        weights = 9 * inputs * channels
        return {
            "macs": (weights * self.areas).sum(axis=1),
            "bops": (weights * self.areas * bits * 8).sum(axis=1),
            "size_bytes": (weights * bits).sum(axis=1),
            "peak_memory_bytes": (channels * self.areas).max(axis=1),
        }

    def costs(self, levels: Levels) -> dict[str, int]:
        return {cost: int(value[0]) for cost, value in self.batch(levels[None]).items()}


def _spread(amounts: tuple[int, ...]) -> tuple[int, ...]:
    """Return up to nine of a dimension's amounts, evenly spread, decreasing."""
    levels = np.linspace(len(amounts) - 1, 0, min(9, len(amounts)))
    return tuple(amounts[round(level)] for level in levels)


def _joint_case(
    rng: np.random.Generator, layers: int, units: int, names: tuple[str, ...]
) -> tuple[SearchSpace, SensitivityCurves, Budget, Joint]:
    """Return a joint space with sparse bits, rough curves, and a budget on some costs."""
    space = SearchSpace(
        (
            *_space(*[units] * layers).dimensions,
            *(Dimension(f"b{i}", "channels", (2, 3, 4, 5, 6, 8)) for i in range(layers)),
        )
    )
    measured = [_spread(own.amounts) for own in space.dimensions]
    scores = tuple(
        tuple(-rng.lognormal(0, 1.5) * np.cumsum([0.0, *rng.exponential(size=len(w) - 1) ** 3]))
        for w in measured
    )
    curves = SensitivityCurves(tuple(d.site for d in space.dimensions), tuple(measured), scores)
    joint = Joint(space, rng.integers(1, 50, size=layers).tolist())
    low, high = (joint.costs(levels) for levels in (space.smallest, space.full))
    bounds = [(name, max(low[name], high[name] * rng.uniform(0.05, 0.6))) for name in names]
    return space, curves, Budget(tuple(bounds)), joint


NAMES = [
    ("macs",),
    ("bops",),
    ("bops", "size_bytes"),
    ("size_bytes", "macs"),
    ("peak_memory_bytes", "size_bytes"),
]


@pytest.mark.parametrize("names", NAMES, ids="+".join)
def test_prior_of_a_tiny_joint_space_is_almost_optimal(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    found, best = [], []
    for _ in range(15):
        space, curves, budget, joint = _joint_case(rng, 2, 5, names)
        levels = greedy_levels(curves, budget, space, joint)
        assert budget.admits(joint.costs(levels))
        every = np.array(list(itertools.product(*map(range, space.full + 1))))
        costs = joint.batch(every)
        within = np.all([costs[cost] <= bound for cost, bound in budget.bounds], axis=0)
        found.append(_loss(curves, space.amounts(levels)))
        best.append(min(_loss(curves, amounts) for amounts in space.amounts(every[within])))
    assert (np.array(found) >= np.array(best) - 1e-9).all()
    assert np.isclose(found, best).mean() >= 0.7
    assert sum(found) <= 1.05 * sum(best)


def _hill_climbing(
    curves: SensitivityCurves, budget: Budget, space: SearchSpace, joint: Joint
) -> Amounts:
    """Cut to measured amounts, least loss for the excess removed first, and give back what fits."""
    amounts = space.full_amounts

    def step(index: int, amount: int) -> Amounts:
        return np.array([*amounts[:index], amount, *amounts[index + 1 :]])

    def costs_of(tried: Amounts) -> dict[str, int]:
        return joint.costs(space.nearest(tried))

    while not budget.admits(now := costs_of(amounts)):
        cuts = []
        for index, measured in enumerate(curves.amounts):
            for amount in (amount for amount in measured if amount < amounts[index]):
                after = costs_of(step(index, amount))
                saved = sum(
                    (now[c] - after[c]) / (now[c] - b) for c, b in budget.bounds if now[c] > b
                )
                lost = curves.drop_at(index, amount) - curves.drop_at(index, amounts[index])
                if saved > 0:
                    cuts.append((lost / saved, index, amount))
        _, index, amount = min(cuts)
        amounts = step(index, amount)
    while True:
        raises = []
        for index, own in enumerate(space.dimensions):
            higher = [amount for amount in own.amounts if amount > amounts[index]][:1]
            if higher and budget.admits(costs_of(step(index, higher[0]))):
                gain = curves.drop_at(index, amounts[index]) - curves.drop_at(index, higher[0])
                raises.append((-gain, index, higher[0]))
        if not raises:
            return amounts
        _, index, amount = min(raises)
        amounts = step(index, amount)


@pytest.mark.parametrize("names", NAMES[:4], ids="+".join)
def test_prior_loses_less_than_hill_climbing(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(8):
        space, curves, budget, joint = _joint_case(rng, 4, 12, names)
        climbed = _hill_climbing(curves, budget, space, joint)
        ratios.append(_loss(curves, _prior(curves, budget, space, joint)) / _loss(curves, climbed))
    assert np.mean(ratios) <= 1.0
    assert max(ratios) <= 1.02


def test_a_large_space_takes_less_than_a_second() -> None:
    space, curves, budget, joint = _joint_case(np.random.default_rng(3), 30, 20, ("bops",))
    begin = time.process_time()
    greedy_levels(curves, budget, space, joint)
    assert time.process_time() - begin < 1.0
