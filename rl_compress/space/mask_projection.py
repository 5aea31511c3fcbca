"""Masks: spaces in which every unit is a group of its own, and their projection onto a budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import SearchSpace, Widths


def decides_masks(space: SearchSpace) -> bool:
    """Say whether widths of a space are binary masks: every group is one unit, kept or not."""
    return all(group.widths == (0, 1) for group in space.groups)


def project_mask(
    mask: npt.NDArray[np.integer] | npt.NDArray[np.bool_],
    keep: npt.NDArray[np.floating],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
) -> Widths:
    """Remove units from a mask until it meets the budget, those that matter least first.

    The fewest units are removed that will do, in increasing order of ``keep``. Where units differ
    in cost this may remove more than is needed, so what still fits is given back, in the opposite
    order.

    Args:
        mask: 1 for each unit that is to stay, shape ``(num_groups,)``.
        keep: What speaks for keeping each unit: its keep probability where that is known, else its
            importance; same shape. Of equal values the later unit goes first.
        budget: Upper bounds; must be feasible.
        space: A space of masks.
        cost_function: Exact costs of widths; removing a unit must not raise a cost.

    Returns:
        A mask within the budget, no unit of which is absent from ``mask``; shape
        ``(num_groups,)``.
    """
    wanted: Widths = np.maximum(np.where(mask, 1, 0), space.smallest_widths)
    removable = np.flatnonzero(wanted > space.smallest_widths)
    # Sorted from the back, so that a stable sort puts the later of two equal units first.
    backwards = removable[::-1]
    order = backwards[np.argsort(np.asarray(keep)[backwards], kind="stable")]

    def without(count: int) -> Widths:
        widths = wanted.copy()
        widths[order[:count]] = 0
        return widths

    def fits(widths: Widths) -> bool:
        return budget.admits(cost_function.costs(widths))

    if fits(wanted):
        return wanted
    low, high = 0, len(order)  # removing `low` units is too few, removing `high` is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(without(middle)) else (middle, high)
    widths = without(high)
    # The unit removed last is known not to fit.
    for index in order[: high - 1][::-1]:
        widths[index] = 1
        if not fits(widths):
            widths[index] = 0
    return widths
