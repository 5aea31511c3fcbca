"""AMC's clipping and HAQ's lowering, on spaces of units and bits with toy costs."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.agent.budget_handling import (
    BudgetHandling,
    bring_within,
    clip,
    decrement,
    decrement_order,
    plain_keep,
)
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Dimension, Levels, SearchSpace

BITS = (2, 3, 4, 5, 6, 8)


class ToyCosts:
    """Two costs: a weighted sum of the amounts, and the product of neighbours."""

    def __init__(self, space: SearchSpace, weights: list[int]) -> None:
        self.space, self.weights = space, np.array(weights)

    def costs(self, levels: Levels) -> dict[str, float]:
        return {name: cost[0] for name, cost in self.batch(levels[None]).items()}

    def batch(self, levels: Levels) -> dict[str, npt.NDArray[Any]]:
        amounts = self.space.amounts(levels)
        products = (amounts[:, 1:] * amounts[:, :-1]).sum(axis=1)
        return {"params": amounts @ self.weights, "macs": products}


def joint_space(layers: int = 3) -> SearchSpace:
    names = [f"layer{index}" for index in range(layers)]
    return SearchSpace(
        (
            *(Dimension(name, "channels", (1, 2, 4, 6)) for name in names),
            *(Dimension(name, "weight_bits", BITS) for name in names),
            *(Dimension(name, "activation_bits", (4, 8)) for name in names),
        )
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[SearchSpace, ToyCosts, Budget, npt.NDArray[np.float64]]:
    """A joint space, costs, a budget that can be met, and wishes."""
    space = joint_space(draw(st.integers(1, 3)))
    number = len(space)
    costs = ToyCosts(space, draw(st.lists(st.integers(0, 9), min_size=number, max_size=number)))
    smallest, full = costs.costs(space.smallest), costs.costs(space.full)
    share = draw(st.floats(0, 1))
    bounds = {name: smallest[name] + share * (full[name] - smallest[name]) for name in full}
    chosen = draw(st.sampled_from([["params"], ["macs"], ["params", "macs"]]))
    keep = draw(st.lists(st.floats(0, 1), min_size=number, max_size=number))
    return space, costs, Budget(tuple((name, bounds[name]) for name in chosen)), np.array(keep)


def lowered_one_by_one(
    levels: Levels, budget: Budget, space: SearchSpace, costs: ToyCosts
) -> list[int]:
    """HAQ's own loops, written out."""
    levels = levels.copy()
    while not budget.admits(costs.costs(levels)):
        for index in decrement_order(space):
            levels[index] = max(levels[index] - 1, 0)
            if budget.admits(costs.costs(levels)):
                break
    return levels.tolist()


@given(problems(), st.sampled_from(get_args(BudgetHandling)))
def test_no_handling_exceeds_the_budget(problem: Any, handling: BudgetHandling) -> None:
    space, costs, budget, keep = problem
    levels = bring_within(handling, keep, budget, space, costs, fill=False)
    assert budget.admits(costs.costs(levels))
    assert ((levels >= 0) & (levels <= space.full)).all()


@given(problems(), st.sampled_from(["clip", "decrement"]))
def test_what_meets_the_budget_is_left_alone(problem: Any, handling: BudgetHandling) -> None:
    space, costs, budget, keep = problem
    levels = bring_within(handling, keep, budget, space, costs, fill=False)
    wanted = space.nearest(keep * space.full_amounts)
    assert (levels <= wanted).all()
    if budget.admits(costs.costs(wanted)):
        assert levels.tolist() == wanted.tolist()


@given(problems())
def test_clipping_is_no_lower_than_the_rest_at_its_smallest_requires(problem: Any) -> None:
    space, costs, budget, keep = problem
    wanted = space.nearest(keep * space.full_amounts)
    levels = bring_within("clip", keep, budget, space, costs, fill=False)
    for index in np.flatnonzero(levels < wanted):
        more = np.concatenate([levels[: index + 1], space.smallest[index + 1 :]])
        more[index] += 1
        assert not budget.admits(costs.costs(more))


def test_early_layers_act_freely_and_late_ones_pay() -> None:
    space = SearchSpace(
        tuple(Dimension(f"layer{index}", "channels", (1, 2, 3, 4)) for index in range(3))
    )
    costs, budget = ToyCosts(space, [1, 1, 1]), Budget((("params", 8),))
    found = bring_within("clip", np.ones(3), budget, space, costs, fill=False)
    assert space.amounts(found).tolist() == [4, 3, 1]


def test_clipping_an_infeasible_budget_takes_the_smallest_level() -> None:
    space = joint_space(1)
    costs = ToyCosts(space, [1, 1, 1])
    assert clip(space.full, 1, Budget((("params", 1),)), space, costs) == 0


def test_a_sweep_goes_from_the_last_layer_to_the_first_activations_before_weights() -> None:
    space = joint_space(2)
    visited = [
        (space.dimensions[i].site, space.dimensions[i].decides) for i in decrement_order(space)
    ]
    assert visited == [
        (layer, decides)
        for layer in ("layer1", "layer0")
        for decides in ("activation_bits", "weight_bits", "pruning_ratio")
    ]


def test_layers_that_are_not_pruned_are_in_their_place() -> None:
    """A layer whose width is fixed still comes before those behind it."""
    dimensions = [Dimension("last", "channels", (1, 6))]
    dimensions += [Dimension(name, "weight_bits", BITS) for name in ("first", "last")]
    assert decrement_order(SearchSpace(tuple(dimensions))) == [2, 0, 1]


def test_levels_are_lowered_one_at_a_time_and_no_further_than_needed() -> None:
    names = ("a", "b", "c")
    space = SearchSpace(tuple(Dimension(name, "weight_bits", BITS) for name in names))
    costs = ToyCosts(space, [1, 1, 1])
    # c 8 -> 6, b 8 -> 6, a 8 -> 6, c 6 -> 5
    lowered = decrement(space.full, Budget((("params", 17),)), space, costs)
    assert space.amounts(lowered).tolist() == [6, 6, 5]


def test_layers_at_their_smallest_are_passed_over() -> None:
    space = SearchSpace(tuple(Dimension(name, "weight_bits", BITS) for name in "abc"))
    costs = ToyCosts(space, [1, 1, 1])
    levels = space.nearest(np.array([8, 8, 2]))
    lowered = decrement(levels, Budget((("params", 12),)), space, costs)
    assert space.amounts(lowered).tolist() == [5, 5, 2]


@given(problems())
def test_halving_finds_what_lowering_one_by_one_does(problem: Any) -> None:
    space, costs, budget, keep = problem
    wanted = space.nearest(keep * space.full_amounts)
    expected = lowered_one_by_one(wanted, budget, space, costs)
    assert decrement(wanted, budget, space, costs).tolist() == expected


@pytest.mark.parametrize("lowest", [1, 2])
def test_bits_take_equal_parts_of_the_action(lowest: int) -> None:
    dimension = Dimension("a", "weight_bits", tuple(range(lowest, 9)))
    count = len(dimension.amounts)
    middles = (np.arange(count) + 0.5) / count * 2 - 1
    edges = 0.499 * 2 / count
    for offset in (-edges, 0.0, edges):
        keeps = [plain_keep(float(value), dimension) for value in middles + offset]
        assert [dimension.nearest(keep * 8) for keep in keeps] == list(range(count))


def test_what_is_pruned_keeps_the_action_itself() -> None:
    dimension = Dimension("a", "channels", tuple(range(1, 9)))
    assert [plain_keep(value, dimension) for value in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]
