from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.policy.budget import Budget
from rl_compress.policy.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.search.prior import greedy_widths
from rl_compress.search.sensitivity import SensitivityCurves


class Sum:
    """Every unit costs one."""

    def costs(self, widths: Widths) -> dict[str, int]:
        total = int(widths.sum())
        return {"macs": total, "params": total, "size_bytes": total}


class Chain:
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
    return sum(curves.drop_at(index, width) for index, width in enumerate(widths))


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
    class Unequal:
        def costs(self, widths: Widths) -> dict[str, int]:
            total = int(10 * widths[0] + widths[1])
            return {"macs": total, "params": total, "size_bytes": total}

    space = _space(3, 9)
    curves = _curves(space, [[0.2, 0.2], [0.1] * 8])
    # One unit of the first group saves what is needed for 0.2; five of the second would lose 0.5.
    assert greedy_widths(curves, Budget((("macs", 34),)), space, Unequal()).tolist() == [2, 9]
