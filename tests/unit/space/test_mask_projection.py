from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import Prices, mask_space

from rl_compress.space.budget import Budget
from rl_compress.space.mask_projection import decides_masks, project_mask
from rl_compress.space.search_space import Dimension, SearchSpace

Case = tuple[np.ndarray, np.ndarray, list[int], float]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a mask, keep probabilities, prices of units, and a bound on their sum."""
    count = draw(st.integers(1, 12))
    mask = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    keep = np.array(draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    prices = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return mask, keep, prices, draw(st.floats(0, 1.1)) * sum(prices)


def _project(
    mask: list[int] | np.ndarray, keep: list[float] | np.ndarray, prices: list[int], bound: float
) -> list[int]:
    budget = Budget((("params", bound),))
    space = mask_space(len(prices))
    found = project_mask(np.array(mask), np.array(keep), budget, space, Prices(prices))
    assert found.dtype == np.int64
    return found.tolist()


@given(cases())
def test_the_budget_is_never_exceeded_and_no_unit_is_added(case: Case) -> None:
    mask, keep, prices, bound = case
    found = np.array(_project(mask, keep, prices, bound))
    assert found @ np.array(prices) <= bound
    assert ((found == 0) | (mask == 1)).all()


@given(cases())
def test_no_unit_is_removed_that_would_fit(case: Case) -> None:
    mask, keep, prices, bound = case
    found = np.array(_project(mask, keep, prices, bound))
    spare = bound - found @ np.array(prices)
    for removed in np.flatnonzero((mask == 1) & (found == 0)):
        assert prices[removed] > spare


@given(cases())
def test_at_equal_prices_the_units_with_the_highest_keep_stay(case: Case) -> None:
    mask, keep, prices, bound = case
    count = len(mask)
    found = _project(mask, keep, [1] * count, bound / max(prices))
    ranked = sorted(np.flatnonzero(mask), key=lambda unit: (-keep[unit], unit))
    stay = ranked[: int(bound / max(prices))]
    assert np.flatnonzero(found).tolist() == sorted(stay)


def test_a_mask_within_the_budget_stays_as_it_is() -> None:
    assert _project([1, 0, 1], [0.0, 1.0, 0.0], [2, 9, 2], 4) == [1, 0, 1]


def test_units_with_the_lowest_keep_go_first() -> None:
    assert _project([1, 1, 1, 1], [0.4, 0.1, 0.9, 0.2], [1, 1, 1, 1], 2) == [1, 0, 1, 0]


def test_of_equal_units_the_later_goes_first() -> None:
    assert _project([1, 1, 1], [0.5, 0.5, 0.5], [1, 1, 1], 2) == [1, 1, 0]


def test_a_cheap_unit_is_given_back() -> None:
    # Unit 0 goes first and frees too little; unit 1 alone frees enough, so 0 fits again.
    assert _project([1, 1, 1], [0.1, 0.2, 0.9], [1, 5, 4], 5) == [1, 0, 1]


def test_of_units_that_fit_again_the_one_with_the_highest_keep_is_given_back() -> None:
    assert _project([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.9], [1, 1, 5, 4], 5) == [0, 1, 0, 1]


@pytest.mark.parametrize("masks", list(itertools.product([0, 1], repeat=3)))
def test_a_budget_of_nothing_leaves_nothing(masks: tuple[int, ...]) -> None:
    assert _project(list(masks), [0.5] * 3, [1, 2, 3], 0) == [0, 0, 0]


def test_masks_are_told_from_ratios() -> None:
    assert decides_masks(mask_space(3))
    assert not decides_masks(SearchSpace((Dimension("a", "channels", (1, 2)),)))
    mixed = (*mask_space(1).dimensions, Dimension("a", "channels", (1, 2, 4)))
    assert not decides_masks(SearchSpace(mixed))
