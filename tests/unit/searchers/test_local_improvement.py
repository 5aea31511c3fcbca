from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.searchers.additive import AdditiveProblem
from rl_compress.searchers.local_improvement import give_back, repair, swap
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace


class Chain(LoopedBatch):
    """MACs are products of neighbours."""

    def of(self, amounts: Amounts) -> dict[str, int]:
        total = int(amounts[0] + (amounts[:-1] * amounts[1:]).sum())
        return {"macs": total, "params": int(amounts.sum())}


@st.composite
def problems(draw: st.DrawFn) -> AdditiveProblem:
    """Draw losses that fall with the level, by equal steps too, and a feasible budget."""
    counts = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    space = SearchSpace(
        tuple(
            Dimension(f"g{i}", "channels", tuple(range(3, 2 * n + 2, 2)))
            for i, n in enumerate(counts)
        )
    )
    losses = []
    for count in counts:
        steps = draw(st.lists(st.integers(0, 3), min_size=count - 1, max_size=count - 1))
        losses.append(np.cumsum([0, *steps])[::-1].astype(np.float64))
    costs = Chain(space)
    smallest, full = costs.costs(space.smallest), costs.costs(space.full)
    bounds = tuple(
        (cost, smallest[cost] + draw(st.floats(0.0, 1.0)) * (full[cost] - smallest[cost]))
        for cost in ("macs", "params")
    )
    return AdditiveProblem(losses, space, Budget(bounds), costs)


def _fits(problem: AdditiveProblem, levels: Levels) -> bool:
    return bool((problem.usage(levels[None]) <= 1.0).all())


def _one_by_one(problem: AdditiveProblem, levels: Levels) -> Levels:
    """Give back as the words say: of the raises that fit, always the one that gains most."""
    while True:
        best, gained = None, -np.inf
        for dimension in np.flatnonzero(levels + 1 < problem.counts):
            raised = levels.copy()
            raised[dimension] += 1
            gain = problem.losses[dimension, levels[dimension]]
            gain -= problem.losses[dimension, levels[dimension] + 1]
            if gain > gained and _fits(problem, raised):
                best, gained = raised, gain
        if best is None:
            return levels
        levels = best


@given(problems())
def test_what_is_left_is_given_back_by_the_largest_gain(problem: AdditiveProblem) -> None:
    smallest = np.zeros_like(problem.counts)

    given_back = give_back(problem, smallest)

    assert given_back.tolist() == _one_by_one(problem, smallest).tolist()
    assert not smallest.any()


@given(problems())
def test_any_vector_is_brought_within_the_budget(problem: AdditiveProblem) -> None:
    repaired = repair(problem, problem.counts - 1)

    assert _fits(problem, repaired)
    assert (repaired >= 0).all()


@given(problems())
def test_swaps_only_lower_the_loss(problem: AdditiveProblem) -> None:
    begun = give_back(problem, np.zeros_like(problem.counts))

    swapped = swap(problem, begun)

    assert _fits(problem, swapped)
    assert problem.loss(swapped) <= problem.loss(begun)


def test_a_swap_pays_for_a_raise_with_a_cut() -> None:
    space = SearchSpace(tuple(Dimension(f"g{i}", "channels", (1, 2, 3)) for i in range(2)))
    losses = [np.array([9.0, 5.0, 0.0]), np.array([2.0, 1.0, 0.0])]
    problem = AdditiveProblem(losses, space, Budget((("params", 4),)), Chain(space))

    assert problem.loss(np.array([1, 1])) == pytest.approx(6.0)
    assert swap(problem, np.array([1, 1])).tolist() == [2, 0]
