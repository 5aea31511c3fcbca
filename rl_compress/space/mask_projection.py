"""Masks: spaces in which every unit is a dimension, and their projection onto a budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace


def decides_masks(space: SearchSpace) -> bool:
    """Say whether levels of a space are binary masks: every dimension is one unit, kept or not."""
    return all(own.amounts == (0, 1) for own in space.dimensions)


def project_mask(
    mask: npt.NDArray[np.integer] | npt.NDArray[np.bool_],
    keep: npt.NDArray[np.floating],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
) -> Levels:
    """Remove units from a mask until it meets the budget, those that matter least first.

    The fewest units are removed that will do, in increasing order of ``keep``. Where units differ
    in cost this may remove more than is needed, so what still fits is given back, in the opposite
    order.

    Args:
        mask: 1 for each unit that is to stay, shape ``(D,)``.
        keep: What speaks for keeping each unit: its keep probability where that is known, else its
            importance; same shape. Of equal values the later unit goes first.
        budget: Upper bounds; must be feasible.
        space: A space of masks.
        cost_function: Exact costs of levels; removing a unit must not raise a cost.

    Returns:
        A mask within the budget, no unit of which is absent from ``mask``; shape
        ``(D,)``.
    """
    wanted: Levels = np.maximum(np.where(mask, 1, 0), space.smallest)
    removable = np.flatnonzero(wanted > space.smallest)
    # Sorted from the back, so that a stable sort puts the later of two equal units first.
    backwards = removable[::-1]
    order = backwards[np.argsort(np.asarray(keep)[backwards], kind="stable")]

    def without(count: int) -> Levels:
        levels = wanted.copy()
        levels[order[:count]] = 0
        return levels

    def fits(levels: Levels) -> bool:
        return budget.admits(cost_function.costs(levels))

    if fits(wanted):
        return wanted
    low, high = 0, len(order)  # removing `low` units is too few, removing `high` is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(without(middle)) else (middle, high)
    levels = without(high)
    # The unit removed last is known not to fit.
    for index in order[: high - 1][::-1]:
        levels[index] = 1
        if not fits(levels):
            levels[index] = 0
    return levels
