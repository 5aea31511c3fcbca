"""The projection: moves a proposal onto the budget, so that every candidate meets it.

The search never spends an evaluation on a variant that is too expensive, and the reward needs no
penalty. The method is progressive filling, the way in which bandwidth is shared fairly (Bertsekas
and Gallager, "Data Networks", 1992, section 6.5.2): all dimensions rise from their smallest level
in proportion to the proposal; one that a bound stops stays where it is, the others go on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.raising import Raising, Steps
from rl_compress.space.search_space import Levels, SearchSpace

_SMALLEST_KEEP = 1e-6


def project(
    keep: npt.NDArray[np.floating],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
    *,
    fill: bool = True,
) -> Levels:
    """Move fractions kept onto the budget, all dimensions in proportion.

    1. The fractions are scaled by the largest common factor that the budget admits, each rounded
       to the nearest level. Without ``fill`` the factor is at most 1.
    2. Of the dimensions that rounding robbed, each is given its next level if that still fits,
       first the one whose loss is largest for the marginal cost of the level. Marginal costs are
       relative to what each bound has left, so that all bounds count alike.
    3. What is still left, such as bits that a bound on MACs does not limit, goes on rising in
       proportion until no dimension can.

    Levels that the budget admits are returned as they are; with ``fill``, if no level can
    be raised.

    Args:
        keep: Which fraction of each dimension to keep, in (0, 1], shape ``(D,)``.
        budget: Upper bounds; must be feasible.
        space: The dimensions.
        cost_function: Exact costs of levels; raising a level must not lower a cost.
        fill: Use up a budget that this leaves unused: no single level of the result can be
            raised to the next. Otherwise none can be raised towards the rounded proposal.

    Returns:
        Levels within the budget, shape ``(D,)``.
    """
    wanted = np.clip(np.asarray(keep, dtype=np.float64), _SMALLEST_KEEP, 1.0) * space.full_amounts
    steps, factors = _towards(wanted, space, fill)
    raising = Raising(space.smallest, budget, cost_function)
    taken = raising.raise_along(steps)
    if taken < len(steps):
        # The factor at which the next level would be due is the one that the budget stops.
        target = np.minimum(wanted * factors[taken], space.full_amounts)
        rest = steps.of(slice(taken, None))
        raising.raise_each(_robbed_first(rest, target, raising, space))
        raising.raise_each(rest.of(rest.levels > raising.levels[rest.dimensions]))
    return raising.levels


def _towards(
    wanted: npt.NDArray[np.float64], space: SearchSpace, fill: bool
) -> tuple[Steps, npt.NDArray[np.float64]]:
    """List the raises in the order in which a proposal, scaled up from 0, is rounded to them.

    Returns:
        The steps, and the factor from which each of them is due.
    """
    raises = space.raises
    factors = raises.midpoints / wanted[raises.dimensions]
    order = np.argsort(factors, kind="stable")
    if not fill:
        # A fraction of the full amount is an amount up to rounding errors.
        order = order[: np.searchsorted(factors[order], 1.0 + 1e-12, side="right")]
    return Steps(raises.dimensions[order], raises.levels[order]), factors[order]


def _robbed_first(
    steps: Steps, target: npt.NDArray[np.float64], raising: Raising, space: SearchSpace
) -> Steps:
    """Return the next step of each dimension below its target, in the order of giving back."""
    upcoming = steps.next_ones()
    own = upcoming.dimensions
    missing = target[own] - space.amounts(raising.levels)[own]
    shortfall = missing / space.full_amounts[own]
    robbed = shortfall > 0
    upcoming, shortfall = upcoming.of(robbed), shortfall[robbed]
    worth = shortfall / np.maximum(raising.marginal_costs(upcoming), 1e-12)
    return upcoming.of(np.argsort(-worth, kind="stable"))
