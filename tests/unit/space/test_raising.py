from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.space.budget import Budget
from rl_compress.space.raising import Raising, Steps
from rl_compress.space.search_space import Levels


class Weighted(LoopedBatch):
    """Every dimension has a price for each unit."""

    def __init__(self, prices: list[int]) -> None:
        self.prices = np.array(prices)

    def costs(self, levels: Levels) -> dict[str, int]:
        return {"macs": int(levels @ self.prices)}


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Draw prices, an order of dimensions to raise by one, and how much may be spent."""
    prices = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    dimensions = draw(st.lists(st.integers(0, len(prices) - 1), max_size=120))
    return prices, dimensions, draw(st.integers(0, 200))


def _steps(dimensions: list[int]) -> Steps:
    reached = dict.fromkeys(dimensions, 1)
    levels = []
    for dimension in dimensions:
        reached[dimension] += 1
        levels.append(reached[dimension])
    return Steps(np.array(dimensions, dtype=np.int64), np.array(levels, dtype=np.int64))


def _begin(prices: list[int], spend: int) -> Raising:
    budget = Budget((("macs", sum(prices) + spend),))
    return Raising(np.ones(len(prices), dtype=np.int64), budget, Weighted(prices))


@given(orders())
def test_steps_are_taken_until_one_does_not_fit(order: tuple[list[int], list[int], int]) -> None:
    prices, dimensions, spend = order
    raising = _begin(prices, spend)
    taken = raising.raise_along(_steps(dimensions))

    spent = np.cumsum([prices[dimension] for dimension in dimensions])
    assert taken == int((spent <= spend).sum())
    counted = np.bincount(np.array(dimensions[:taken], dtype=int), minlength=len(prices))
    assert (raising.levels == 1 + counted).all()


@given(orders())
def test_dimensions_that_do_not_fit_are_left_out(order: tuple[list[int], list[int], int]) -> None:
    prices, dimensions, spend = order
    raising = _begin(prices, spend)
    raising.raise_each(_steps(dimensions))

    levels, closed = [1] * len(prices), set()
    for dimension in dimensions:
        if dimension not in closed and prices[dimension] <= spend:
            levels[dimension] += 1
            spend -= prices[dimension]
        else:
            closed.add(dimension)
    assert raising.levels.tolist() == levels


def test_the_next_ones_are_the_first_of_each_dimension() -> None:
    upcoming = Steps(np.array([3, 1, 3, 1, 0]), np.array([5, 7, 6, 8, 2])).next_ones()

    assert upcoming.dimensions.tolist() == [0, 1, 3]
    assert upcoming.levels.tolist() == [2, 7, 5]
    assert len(upcoming.of(slice(0)).next_ones()) == 0
