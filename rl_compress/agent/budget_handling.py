"""How an agent's decisions are brought within the budget.

| handling | what it does | from |
|---|---|---|
| `projection` | scales all decisions together, :mod:`rl_compress.space.projection` | this package |
| `clip` | decides in order; each decision is lowered to the most that the budget allows if all that follow take their smallest levels | AMC: He et al., ECCV 2018, algorithm 1 |
| `decrement` | after all decisions, lowers one after the other by a level, from the last layer to the first and over again, until the budget is met | HAQ: Wang et al., CVPR 2019, as its code does |

The two published rules are stated for channels and for bits; here they hold for every dimension of
a space. Both end within a budget that the smallest levels meet, because no
cost rises when a level falls.
"""  # noqa: E501

from __future__ import annotations

import bisect
from typing import Literal

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.projection import project
from rl_compress.space.search_space import Dimension, Levels, SearchSpace

BudgetHandling = Literal["projection", "clip", "decrement"]


def bring_within(
    handling: BudgetHandling,
    keep: npt.NDArray[np.float64],
    budget: Budget,
    space: SearchSpace,
    costs: CostFunction,
    *,
    fill: bool,
) -> Levels:
    """Return levels within the budget for decisions that may exceed it.

    Args:
        handling: Which rule.
        keep: Which fraction of each dimension to keep, shape ``(D,)``.
        budget: Upper bounds, which the smallest levels meet.
        space: The dimensions.
        costs: Exact costs of levels.
        fill: With `projection`, use up what the decisions leave unused.

    Returns:
        Levels, shape ``(D,)``.
    """
    if handling == "projection":
        return project(keep, budget, space, costs, fill=fill)
    wanted = space.nearest(keep * space.full_amounts)
    if handling == "decrement":
        return decrement(wanted, budget, space, costs)
    for index in range(len(space)):
        wanted[index] = clip(wanted, index, budget, space, costs)
    return wanted


def clip(
    levels: Levels, index: int, budget: Budget, space: SearchSpace, costs: CostFunction
) -> int:
    """Return the highest level of a dimension that leaves the budget within reach.

    Args:
        levels: Shape ``(D,)``: what is decided before the dimension, and what is wanted of it.
        index: The dimension; those that follow it are taken at their smallest levels.
        budget: Upper bounds.
        space: The dimensions.
        costs: Exact costs of levels.

    Returns:
        At most the level wanted; the smallest one if no level fits.
    """
    trial = np.concatenate([levels[: index + 1], space.smallest[index + 1 :]])
    below = range(int(levels[index]) + 1)

    def exceeds(level: int) -> bool:
        trial[index] = level
        return not budget.admits(costs.costs(trial))

    return max(bisect.bisect_left(below, True, key=exceeds) - 1, 0)


def decrement(levels: Levels, budget: Budget, space: SearchSpace, costs: CostFunction) -> Levels:
    """Lower levels one at a time until the budget is met.

    A sweep visits the layers from the last to the first, and in each layer the bits of its
    activations, then those of its weights, then its units; it lowers each to the next level and
    stops as soon as the budget is met. Sweeps follow one another.

    Args:
        levels: Shape ``(D,)``.
        budget: Upper bounds, which the smallest levels meet.
        space: The dimensions.
        costs: Exact costs of levels.

    Returns:
        Levels, shape ``(D,)``.
    """
    order = decrement_order(space)

    def after(visits: int) -> Levels:
        sweeps, begun = divmod(visits, len(order))
        left = levels - sweeps
        left[order[:begun]] -= 1
        return np.maximum(left, 0)

    # Costs only fall along the way, so where the budget is met first can be found by halving.
    every = range(int(levels.max(initial=0)) * len(order))
    return after(
        bisect.bisect_left(every, True, key=lambda n: budget.admits(costs.costs(after(n))))
    )


def decrement_order(space: SearchSpace) -> list[int]:
    """Return the dimensions in the order in which a sweep of :func:`decrement` visits them."""
    depths = _depths(space)
    # Within a layer: activations' bits, weights' bits, units, which is the reverse of the space.
    return sorted(range(len(space)), key=lambda index: (-depths[index], -index))


def _depths(space: SearchSpace) -> list[int]:
    """Return how deep in the network each dimension's layer is, as far as the space tells.

    The space lists the layers of each aspect in forward order. Where an aspect leaves some out, the
    longest list places them.
    """
    lists: dict[str, list[str]] = {}
    for own in space.dimensions:
        lists.setdefault(own.decides, []).append(own.site)
    longest = max(lists.values(), key=lambda names: len(names))
    depth = {name: at for at, name in enumerate(longest)}
    for names in lists.values():
        for before, name in zip(["", *names], names, strict=False):
            depth.setdefault(name, depth.get(before, 0))
    return [depth[own.site] for own in space.dimensions]


def plain_keep(value: float, dimension: Dimension) -> float:
    """Return what a plain action, without a prior, keeps of a dimension.

    A pruned group keeps the action itself, as a share of its range (AMC). Bits take equal parts of
    the range: ``round(lowest - 1/2 + share * (highest - lowest + 1))`` (HAQ, as coded).

    Args:
        value: The action, from -1 to 1.
        dimension: What it decides.

    Returns:
        The fraction to keep, not yet rounded to a level.
    """
    share = (value + 1.0) / 2.0
    if dimension.prunes:
        return share
    lowest, highest = dimension.amounts[0], dimension.full
    return (lowest - 0.5 + share * (highest - lowest + 1)) / highest
