from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rl_compress.searchers.knapsack import solve_knapsack

_UNIT = st.integers(0, 64).map(lambda n: n / 64)


@given(
    hnp.arrays(np.float64, (3, 4), elements=_UNIT),
    hnp.arrays(np.float64, (3, 4), elements=_UNIT),
    st.floats(0, 3),
)
def test_no_choice_of_the_same_weight_loses_less(
    losses: np.ndarray, weights: np.ndarray, capacity: float
) -> None:
    weights = np.sort(weights, axis=1)
    weights[:, 0] = 0.0  # something always fits
    chosen = solve_knapsack(losses, weights[..., None], np.array([capacity]))
    rows = np.arange(3)
    weight = weights[rows, chosen].sum()
    assert weight <= capacity
    for other in itertools.product(range(4), repeat=3):
        if weights[rows, other].sum() <= weight:
            assert losses[rows, chosen].sum() <= losses[rows, other].sum() + 1e-6


def test_levels_that_are_not_offered_are_not_chosen() -> None:
    losses = np.array([[np.inf, 0.5, 0.2], [0.9, np.inf, np.inf]])
    weights = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])[..., None]
    assert solve_knapsack(losses, weights, np.array([0.6])).tolist() == [1, 0]
    assert solve_knapsack(losses, weights, np.array([1.0])).tolist() == [2, 0]


def test_every_bound_is_met() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = -np.sort(-rng.exponential(size=(8, 6)), axis=1)
        weights = np.sort(rng.exponential(size=(8, 6, 3)), axis=1)
        capacity = weights[:, 0].sum(axis=0) * rng.uniform(1.0, 3.0, size=3)
        chosen = solve_knapsack(losses, weights, capacity)
        assert (weights[np.arange(8), chosen].sum(axis=0) <= capacity).all()


def test_what_cannot_be_met_is_approached() -> None:
    losses = np.array([[1.0, 0.0], [1.0, 0.0]])
    weights = np.array([[1.0, 2.0], [1.0, 2.0]])[..., None]
    assert solve_knapsack(losses, weights, np.array([1.0])).tolist() == [0, 0]
