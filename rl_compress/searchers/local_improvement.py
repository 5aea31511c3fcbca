"""Local moves on a vector of levels: meet the budget, give back what is left, and swap."""

from __future__ import annotations

import numpy as np

from rl_compress.searchers.additive import AdditiveProblem
from rl_compress.space.search_space import Levels

_STRIDES = (1, 2, 3, 5, 8, 13, 21, 34, 55)
"""By how many levels a single move goes up or down."""
_MOVES = 512
"""Most raises, and most cuts, that are paired in one round of swaps."""
_CHECKED = 64
"""Most promising pairs in a round whose exact costs are asked for at once."""
_ROUNDS = 200
"""Swaps after which the result is taken as it is."""
_EPSILON = 1e-12
"""Gains below this are rounding."""


def repair(problem: AdditiveProblem, levels: Levels) -> Levels:
    """Cut levels, least loss for the excess removed first, until the budget is met.

    Args:
        problem: Losses and costs; its smallest vector must be feasible.
        levels: Any vector, shape ``(D,)``.
    """
    levels = levels.copy()
    while (excess := np.maximum(problem.usage(levels[None])[0] - 1.0, 0.0)).any():
        dimensions, targets = _moves(problem, levels, up=False)
        loss = problem.losses
        lost = loss[dimensions, targets] - loss[dimensions, levels[dimensions]]
        after = np.maximum(problem.usage_after(levels, (dimensions, targets)) - 1.0, 0.0)
        # Every bound counts alike, however far it is exceeded.
        over = excess > 0
        saved = ((excess - after)[:, over] / excess[over]).sum(axis=1)
        if not (saved > 0).any():
            # No single cut helps (a peak that several dimensions share): cut everything a bit.
            levels = np.maximum(levels - 1, 0)
            continue
        rate = np.where(saved > 0, lost / np.where(saved > 0, saved, 1.0), np.inf)
        best = int(np.lexsort((-saved, rate))[0])
        levels[dimensions[best]] = targets[best]
    return levels


def give_back(problem: AdditiveProblem, levels: Levels) -> Levels:
    """Raise levels one by one while one fits, the one that gains most first.

    Args:
        problem: Losses and costs.
        levels: A vector within the budget, shape ``(D,)``.
    """
    columns = np.arange(problem.losses.shape[1] - 1)
    offered = (columns >= levels[:, None]) & (columns + 1 < problem.counts[:, None])
    # Beyond its last level a dimension's loss is infinite; there the gains mean nothing.
    with np.errstate(invalid="ignore"):
        gains = np.where(offered, problem.losses[:, :-1] - problem.losses[:, 1:], np.inf)
    # A raise has to wait for those below it, be their gains ever so small.
    due = np.minimum.accumulate(gains, axis=1)
    dimensions, below = np.nonzero(offered)
    order = np.argsort(-due[dimensions, below], kind="stable")
    return problem.raised(levels, (dimensions[order], below[order] + 1))


def swap(problem: AdditiveProblem, levels: Levels) -> Levels:
    """Raise one dimension and cut another while the summed loss falls and the budget holds.

    Args:
        problem: Losses and costs.
        levels: A vector within the budget, shape ``(D,)``.
    """
    levels = levels.copy()
    for _ in range(_ROUNDS):
        better = _best_swap(problem, levels)
        if better is None:
            break
        levels = better
    return levels


def _best_swap(problem: AdditiveProblem, levels: Levels) -> Levels | None:
    used = problem.usage(levels[None])[0]
    loss = problem.losses

    def tabulate(up: bool) -> tuple[Levels, Levels, np.ndarray, np.ndarray]:
        moves = _moves(problem, levels, up=up)
        change = loss[moves] - loss[moves[0], levels[moves[0]]]
        weight = problem.usage_after(levels, moves) - used
        # The most loss saved, or the least lost, for what it weighs.
        rate = change / np.maximum(np.abs(weight).max(axis=1), _EPSILON)
        chosen = np.argsort(rate, kind="stable")[:_MOVES]
        if up:
            chosen = chosen[change[chosen] < -_EPSILON]
        return moves[0][chosen], moves[1][chosen], change[chosen], weight[chosen]

    raised, higher, gains, heavier = tabulate(up=True)
    cut, lower, losses, lighter = tabulate(up=False)
    # A raise alone is a swap with a cut that changes nothing.
    cut, lower = np.append(cut, -1), np.append(lower, 0)
    losses = np.append(losses, 0.0)
    lighter = np.concatenate([lighter, np.zeros((1, len(used)))])
    change = gains[:, None] + losses[None, :]
    promising = (change < -_EPSILON) & (raised[:, None] != cut[None, :])
    for bound in range(len(used)):
        weight = used[bound] + heavier[:, None, bound] + lighter[None, :, bound]
        promising &= weight <= 1.0 + _EPSILON
    first, second = np.nonzero(promising)
    order = np.argsort(change[first, second], kind="stable")[:_CHECKED]
    first, second = first[order], second[order]
    candidates = np.tile(levels, (len(order), 1))
    rows = np.arange(len(order))
    candidates[rows, raised[first]] = higher[first]
    both = cut[second] >= 0
    candidates[rows[both], cut[second][both]] = lower[second][both]
    fitting = np.flatnonzero((problem.usage(candidates) <= 1.0).all(axis=1))
    return candidates[fitting[0]] if len(fitting) else None


def _moves(problem: AdditiveProblem, levels: Levels, *, up: bool) -> tuple[Levels, Levels]:
    """Return dimensions and target levels of all moves in one direction."""
    strides = np.array(_STRIDES) if up else -np.array(_STRIDES)
    targets = levels[:, None] + strides
    dimensions, column = np.nonzero((targets >= 0) & (targets < problem.counts[:, None]))
    return dimensions, targets[dimensions, column]
