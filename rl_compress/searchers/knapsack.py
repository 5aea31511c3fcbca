"""The multiple-choice knapsack problem by Lagrange multipliers, one for each bound.

Of every dimension exactly one level is chosen; losses and weights add up. For fixed multipliers
the dimensions separate, and each takes the level with the least loss plus priced weights (Everett,
1963). What is found is optimal for the weight that it has; only choices off the lower convex hull
of loss over weight are out of reach.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEPS = 32
"""Halvings of the logarithm of a multiplier, which is then right to eight digits."""
_LOG_RANGE = (-14.0, 14.0)
"""Decimal logarithms of the smallest and the largest multiplier, per unit of the largest loss."""
_ROUNDS = 4
"""Times that every multiplier is found anew while the others stay."""


def solve_knapsack(
    losses: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    capacity: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Choose a level for each dimension, with little loss in all, within the capacity.

    Each multiplier is bisected to the smallest value that meets its bound while the others stay
    (coordinate ascent on the dual), in turn; at last they are only raised, until all bounds hold.
    A choice that misses a bound is possible only where its lightest levels do.

    Args:
        losses: Loss of each level, infinite where a dimension may not take it, shape ``(D, L)``.
        weights: Weights against each bound, finite and never falling from level to level, shape
            ``(D, L, B)``.
        capacity: What the chosen weights may add up to, shape ``(B,)``.

    Returns:
        The chosen level of each dimension, shape ``(D,)``.
    """
    rows = np.arange(len(losses))
    offered = np.isfinite(losses)
    largest = float(losses[offered].max(initial=0.0))
    scaled = losses / largest if largest > 0 else losses
    multipliers = np.zeros(len(capacity))

    def choose() -> npt.NDArray[np.int64]:
        priced: npt.NDArray[np.int64] = (scaled + weights @ multipliers).argmin(axis=1)
        return priced

    def fits(bound: int) -> bool:
        return bool(weights[rows, choose(), bound].sum() <= capacity[bound])

    def raise_until_it_fits(bound: int) -> None:
        if fits(bound):
            return
        low, high = _LOG_RANGE
        if multipliers[bound] > 0:
            low = np.log10(multipliers[bound])
        for _ in range(_STEPS):
            middle = (low + high) / 2
            multipliers[bound] = 10.0**middle
            low, high = (low, middle) if fits(bound) else (middle, high)
        multipliers[bound] = 10.0**high

    for _ in range(_ROUNDS):
        for bound in range(len(capacity)):
            multipliers[bound] = 0.0
            raise_until_it_fits(bound)
        if len(capacity) == 1:
            return choose()
    for bound in range(len(capacity)):
        # Higher prices of one bound make no dimension heavier in another.
        raise_until_it_fits(bound)
    return choose()
