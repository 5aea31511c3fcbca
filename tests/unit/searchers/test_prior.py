from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.searchers.prior import additive_loss, greedy_widths
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import GroupChoices, SearchSpace, Widths


class Sum(LoopedBatch):
    """Every unit costs one."""

    def costs(self, widths: Widths) -> dict[str, int]:
        total = int(widths.sum())
        return {"macs": total, "params": total, "size_bytes": total}


class Chain(LoopedBatch):
    """MACs are products of neighbours."""

    def costs(self, widths: Widths) -> dict[str, int]:
        total = int(widths[0] + (widths[:-1] * widths[1:]).sum())
        return {"macs": total, "params": int(widths.sum()), "size_bytes": total}


def _space(*units: int) -> SearchSpace:
    return SearchSpace(
        tuple(GroupChoices(f"g{i}", n, tuple(range(1, n + 1))) for i, n in enumerate(units))
    )


def _curves(space: SearchSpace, marginals: list[list[float]]) -> SensitivityCurves:
    """Measure every width; ``marginals`` are the losses of the first unit removed, the second …"""
    widths = tuple(tuple(reversed(group.widths)) for group in space.groups)
    scores = tuple(
        tuple(
            -np.concatenate([[0.0], np.cumsum(losses)]).round(9).tolist()[i] for i in range(len(w))
        )
        for losses, w in zip(marginals, widths, strict=True)
    )
    return SensitivityCurves(tuple(group.name for group in space.groups), widths, scores)


def _loss(curves: SensitivityCurves, widths: tuple[int, ...]) -> float:
    return additive_loss(curves, np.array(widths))


@st.composite
def additive_toys(draw: st.DrawFn) -> tuple[SearchSpace, SensitivityCurves, int]:
    """Draw groups that lose more with every further unit, and a budget in units."""
    space = _space(*draw(st.lists(st.integers(2, 5), min_size=2, max_size=4)))
    losses = st.integers(0, 1000).map(lambda n: n / 100)
    marginals = [
        sorted(draw(st.lists(losses, min_size=n - 1, max_size=n - 1)))
        for n in space.num_units.tolist()
    ]
    bound = draw(st.integers(len(space), int(space.num_units.sum())))
    return space, _curves(space, marginals), bound


@given(additive_toys())
def test_prior_is_optimal_where_losses_add_up_and_increase(
    toy: tuple[SearchSpace, SensitivityCurves, int],
) -> None:
    space, curves, bound = toy
    found = greedy_widths(curves, Budget((("macs", bound),)), space, Sum())
    feasible = [
        widths
        for widths in itertools.product(*(group.widths for group in space.groups))
        if sum(widths) <= bound
    ]
    assert found.sum() <= bound
    best = min(_loss(curves, widths) for widths in feasible)
    assert abs(_loss(curves, tuple(found.tolist())) - best) < 1e-9


@st.composite
def chains(draw: st.DrawFn) -> tuple[SearchSpace, SensitivityCurves, Budget]:
    """Draw any curves, measured at some widths, and a budget of one or two costs."""
    space = _space(*draw(st.lists(st.integers(2, 10), min_size=1, max_size=4)))
    widths = [
        (group.num_units, *sorted(draw(st.sets(st.sampled_from(group.widths[:-1]))), reverse=True))
        for group in space.groups
    ]
    # Without its lowest level measured, a dimension would never be cut far enough.
    widths = [(*w, 1) if w[-1] > 1 else w for w in widths]
    scores = tuple(tuple(draw(st.floats(-2, 0)) for _ in measured) for measured in widths)
    curves = SensitivityCurves(tuple(g.name for g in space.groups), tuple(widths), scores)
    low, high = (Chain().costs(w) for w in (space.smallest_widths, space.full_widths))
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
    widths = greedy_widths(curves, budget, space, Chain())
    assert budget.admits(Chain().costs(widths))
    for index, group in enumerate(space.groups):
        if widths[index] < group.num_units:
            wider = widths.copy()
            wider[index] += 1
            assert not budget.admits(Chain().costs(wider))


def test_an_ample_budget_keeps_everything() -> None:
    space = _space(4, 3)
    curves = _curves(space, [[0.1, 0.2, 0.3], [0.1, 0.2]])
    assert greedy_widths(curves, Budget((("macs", 7),)), space, Sum()).tolist() == [4, 3]


def test_the_tightest_feasible_budget_keeps_the_smallest() -> None:
    space = _space(4, 3)
    curves = _curves(space, [[0.1, 0.2, 0.3], [0.1, 0.2]])
    assert greedy_widths(curves, Budget((("macs", 2),)), space, Sum()).tolist() == [1, 1]


def test_the_insensitive_group_is_cut_first() -> None:
    space = _space(5, 5)
    curves = _curves(space, [[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
    assert greedy_widths(curves, Budget((("macs", 7),)), space, Sum()).tolist() == [5, 2]


def test_losses_are_weighed_against_the_cost_that_they_save() -> None:
    class Unequal(LoopedBatch):
        def costs(self, widths: Widths) -> dict[str, int]:
            total = int(10 * widths[0] + widths[1])
            return {"macs": total, "params": total, "size_bytes": total}

    space = _space(3, 9)
    curves = _curves(space, [[0.2, 0.2], [0.1] * 8])
    # One unit of the first group saves what is needed for 0.2; five of the second would lose 0.5.
    assert greedy_widths(curves, Budget((("macs", 34),)), space, Unequal()).tolist() == [2, 9]


class Joint:
    """Convolutions in a row; the second half of the vector are the bits of their weights."""

    def __init__(self, areas: list[int]) -> None:
        self.areas = np.array(areas)

    def batch(self, widths: Widths) -> dict[str, Widths]:
        channels, bits = np.split(np.asarray(widths), 2, axis=1)
        inputs = np.concatenate([np.full((len(channels), 1), 3), channels[:, :-1]], axis=1)
        weights = 9 * inputs * channels
        return {
            "macs": (weights * self.areas).sum(axis=1),
            "bops": (weights * self.areas * bits * 8).sum(axis=1),
            "size_bytes": (weights * bits).sum(axis=1),
            "peak_memory_bytes": (channels * self.areas).max(axis=1),
        }

    def costs(self, widths: Widths) -> dict[str, int]:
        return {cost: int(value[0]) for cost, value in self.batch(widths[None]).items()}


def _spread(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Return up to nine of a dimension's levels, evenly spread, decreasing."""
    positions = np.linspace(len(levels) - 1, 0, min(9, len(levels)))
    return tuple(levels[round(position)] for position in positions)


def _joint_case(
    rng: np.random.Generator, layers: int, units: int, names: tuple[str, ...]
) -> tuple[SearchSpace, SensitivityCurves, Budget, Joint]:
    """Return a joint space with sparse bits, rough curves, and a budget on some costs."""
    space = SearchSpace(
        (
            *_space(*[units] * layers).groups,
            *(GroupChoices(f"b{i}", 8, (2, 3, 4, 5, 6, 8)) for i in range(layers)),
        )
    )
    measured = [_spread(group.widths) for group in space.groups]
    scores = tuple(
        tuple(-rng.lognormal(0, 1.5) * np.cumsum([0.0, *rng.exponential(size=len(w) - 1) ** 3]))
        for w in measured
    )
    curves = SensitivityCurves(tuple(g.name for g in space.groups), tuple(measured), scores)
    joint = Joint(rng.integers(1, 50, size=layers).tolist())
    low, high = (joint.costs(w) for w in (space.smallest_widths, space.full_widths))
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
        widths = greedy_widths(curves, budget, space, joint)
        assert budget.admits(joint.costs(widths))
        every = np.array(list(itertools.product(*(group.widths for group in space.groups))))
        costs = joint.batch(every)
        within = np.all([costs[cost] <= bound for cost, bound in budget.bounds], axis=0)
        found.append(additive_loss(curves, widths))
        best.append(min(additive_loss(curves, w) for w in every[within]))
    assert (np.array(found) >= np.array(best) - 1e-9).all()
    assert np.isclose(found, best).mean() >= 0.7
    assert sum(found) <= 1.05 * sum(best)


def _hill_climbing(
    curves: SensitivityCurves, budget: Budget, space: SearchSpace, joint: Joint
) -> Widths:
    """Cut to measured levels, least loss for the excess removed first, and give back what fits."""
    widths = space.full_widths

    def step(index: int, level: int) -> Widths:
        return np.array([*widths[:index], level, *widths[index + 1 :]])

    while not budget.admits(now := joint.costs(widths)):
        cuts = []
        for index, measured in enumerate(curves.widths):
            for level in (level for level in measured if level < widths[index]):
                after = joint.costs(step(index, level))
                saved = sum(
                    (now[c] - after[c]) / (now[c] - b) for c, b in budget.bounds if now[c] > b
                )
                lost = curves.drop_at(index, level) - curves.drop_at(index, widths[index])
                if saved > 0:
                    cuts.append((lost / saved, index, level))
        _, index, level = min(cuts)
        widths = step(index, level)
    while True:
        raises = []
        for index, group in enumerate(space.groups):
            higher = [level for level in group.widths if level > widths[index]][:1]
            if higher and budget.admits(joint.costs(step(index, higher[0]))):
                gain = curves.drop_at(index, widths[index]) - curves.drop_at(index, higher[0])
                raises.append((-gain, index, higher[0]))
        if not raises:
            return widths
        _, index, level = min(raises)
        widths = step(index, level)


@pytest.mark.parametrize("names", NAMES[:4], ids="+".join)
def test_prior_loses_less_than_hill_climbing(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(8):
        space, curves, budget, joint = _joint_case(rng, 4, 12, names)
        widths = greedy_widths(curves, budget, space, joint)
        climbed = _hill_climbing(curves, budget, space, joint)
        ratios.append(additive_loss(curves, widths) / additive_loss(curves, climbed))
    assert np.mean(ratios) <= 1.0
    assert max(ratios) <= 1.02


def test_a_large_space_takes_less_than_a_second() -> None:
    space, curves, budget, joint = _joint_case(np.random.default_rng(3), 30, 20, ("bops",))
    begin = time.process_time()
    greedy_widths(curves, budget, space, joint)
    assert time.process_time() - begin < 1.0
