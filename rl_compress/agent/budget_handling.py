"""How an agent's decisions are brought within the budget.

| handling | what it does | from |
|---|---|---|
| `projection` | scales all decisions together, :mod:`rl_compress.space.projection` | this package |
| `clip` | decides in order; each decision is lowered to the most that the budget allows if all that follow take their smallest levels | AMC: He et al., ECCV 2018, algorithm 1 |
| `decrement` | after all decisions, lowers one after the other by a level, from the last layer to the first and over again, until the budget is met | HAQ: Wang et al., CVPR 2019, as its code does |

The two published rules are stated for channels and for bits; here they hold for every dimension of
a space, with any allowed levels. Both end within a budget that the smallest levels meet, because no
cost rises when a level falls.
"""  # noqa: E501

from __future__ import annotations

import bisect
from typing import Literal

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.projection import project
from rl_compress.space.search_space import GroupChoices, SearchSpace, Widths

BudgetHandling = Literal["projection", "clip", "decrement"]


def bring_within(
    handling: BudgetHandling,
    keep: npt.NDArray[np.float64],
    budget: Budget,
    space: SearchSpace,
    costs: CostFunction,
    *,
    fill: bool,
) -> Widths:
    """Return levels within the budget for decisions that may exceed it.

    Args:
        handling: Which rule.
        keep: Wanted levels as fractions of the largest, shape ``(D,)``.
        budget: Upper bounds, which the smallest levels meet.
        space: Allowed levels.
        costs: Exact costs of levels.
        fill: With `projection`, use up what the decisions leave unused.

    Returns:
        Allowed levels, shape ``(D,)``.
    """
    if handling == "projection":
        return project(keep, budget, space, costs, fill=fill)
    wanted = space.nearest(keep * space.num_units)
    if handling == "decrement":
        return decrement(wanted, budget, space, costs)
    for index in range(len(space)):
        wanted[index] = clip(wanted, index, budget, space, costs)
    return wanted


def clip(
    levels: Widths, index: int, budget: Budget, space: SearchSpace, costs: CostFunction
) -> int:
    """Return the highest level of a dimension that leaves the budget within reach.

    Args:
        levels: Shape ``(D,)``: what is decided before the dimension, and what is wanted of it.
        index: The dimension; those that follow it are taken at their smallest levels.
        budget: Upper bounds.
        space: Allowed levels.
        costs: Exact costs of levels.

    Returns:
        At most the level wanted; the smallest one if no level fits.
    """
    trial = np.concatenate([levels[: index + 1], space.smallest_widths[index + 1 :]])
    allowed = space.groups[index].widths
    below = allowed[: bisect.bisect_right(allowed, int(levels[index]))]

    def exceeds(level: int) -> bool:
        trial[index] = level
        return not budget.admits(costs.costs(trial))

    return below[max(bisect.bisect_left(below, True, key=exceeds) - 1, 0)]


def decrement(levels: Widths, budget: Budget, space: SearchSpace, costs: CostFunction) -> Widths:
    """Lower levels one at a time until the budget is met.

    A sweep visits the layers from the last to the first, and in each layer the bits of its
    activations, then those of its weights, then its width; it lowers each to the next allowed level
    and stops as soon as the budget is met. Sweeps follow one another.

    Args:
        levels: Allowed levels, shape ``(D,)``.
        budget: Upper bounds, which the smallest levels meet.
        space: Allowed levels.
        costs: Exact costs of levels.

    Returns:
        Allowed levels, shape ``(D,)``.
    """
    order = decrement_order(space)
    positions = np.array(
        [group.widths.index(int(level)) for group, level in zip(space.groups, levels, strict=True)]
    )

    def after(visits: int) -> Widths:
        sweeps, begun = divmod(visits, len(order))
        left = positions - sweeps
        left[order[:begun]] -= 1
        chosen = np.maximum(left, 0)
        return np.array(
            [group.widths[at] for group, at in zip(space.groups, chosen, strict=True)],
            dtype=np.int64,
        )

    # Costs only fall along the way, so where the budget is met first can be found by halving.
    every = range(int(positions.max(initial=0)) * len(order))
    return after(
        bisect.bisect_left(every, True, key=lambda n: budget.admits(costs.costs(after(n))))
    )


def decrement_order(space: SearchSpace) -> list[int]:
    """Return the dimensions in the order in which a sweep of :func:`decrement` visits them."""
    depths = _depths(space)
    # Within a layer: activations' bits, weights' bits, width, which is the reverse of the space.
    return sorted(range(len(space)), key=lambda index: (-depths[index], -index))


def _depths(space: SearchSpace) -> list[int]:
    """Return how deep in the network each dimension's layer is, as far as the space tells.

    The space lists the layers of each aspect in forward order. Where an aspect leaves some out, the
    longest list places them.
    """
    lists: dict[str, list[str]] = {}
    for group in space.groups:
        lists.setdefault(group.decides, []).append(group.name)
    longest = max(lists.values(), key=lambda names: len(names))
    depth = {name: at for at, name in enumerate(longest)}
    for names in lists.values():
        for before, name in zip(["", *names], names, strict=False):
            depth.setdefault(name, depth.get(before, 0))
    return [depth[group.name] for group in space.groups]


def plain_keep(value: float, choices: GroupChoices) -> float:
    """Return what a plain action, without a prior, keeps of a dimension.

    A pruned group keeps the action itself, as a share of its range (AMC). Bits take equal parts of
    the range: ``round(lowest - 1/2 + share * (highest - lowest + 1))`` (HAQ, as coded).

    Args:
        value: The action, from -1 to 1.
        choices: The dimension.

    Returns:
        The wanted level, not yet rounded, as a fraction of the largest.
    """
    share = (value + 1.0) / 2.0
    if choices.decides == "pruning_ratio":
        return share
    lowest, highest = choices.widths[0], choices.widths[-1]
    return (lowest - 0.5 + share * (highest - lowest + 1)) / highest
