"""The prior: the levels that the sensitivity curves alone recommend for a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.additive import AdditiveProblem
from rl_compress.searchers.knapsack import solve_knapsack
from rl_compress.searchers.local_improvement import give_back, repair, swap
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace

_SHRINK = 0.75
"""Factor from one budget to the next on the way from the uncompressed target to the budget."""
_IMPROVED = 8
"""Most of the vectors found that are improved by swaps."""


def greedy_levels(
    curves: SensitivityCurves, budget: Budget, space: SearchSpace, cost_function: CostFunction
) -> Levels:
    """Find the levels within the budget that sensitivity curves recommend.

    Args:
        curves: What each dimension's compression costs alone.
        budget: Upper bounds; must be feasible.
        space: The dimensions.
        cost_function: Exact costs.

    Returns:
        See :func:`least_loss`.
    """
    return least_loss(curves.loss_tables(space), budget, space, cost_function)


def least_loss(
    tables: Sequence[npt.NDArray[np.float64]],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
) -> Levels:
    """Find levels within the budget whose summed loss is small.

    Losses add up, costs do not: that of a layer is a product of its input's and its output's
    levels. So the costs are linearised around a vector, the resulting multiple-choice knapsack is
    solved by Lagrange multipliers, and this is repeated around what it gives. Three starts are
    taken: the uncompressed target, from where the budget is tightened step by step; the vector at
    the budget whose levels are all equally high; and the smallest vector. What they give is
    improved by single raises and by pairs of a raise and a cut.

    Args:
        tables: For each dimension the loss at each of its levels, never rising with them.
        budget: Upper bounds; must be feasible.
        space: The dimensions.
        cost_function: Exact costs.

    Returns:
        Levels within the budget, shape ``(D,)``; none can be raised by itself.
    """
    problem = AdditiveProblem(list(tables), space, budget, cost_function)
    full = problem.counts - 1
    excess = float(problem.usage(full[None]).max(initial=0.0))
    if excess <= 1.0:
        return full
    found: list[Levels] = []
    tightened = _tightened(problem, full, excess)
    for start in (tightened, _even(problem), np.zeros_like(full)):
        found.extend(_settle(problem, start))
    feasible = [give_back(problem, repair(problem, levels)) for levels in _distinct(found)]
    promising = sorted(_distinct(feasible), key=problem.loss)[:_IMPROVED]
    best = min((swap(problem, levels) for levels in promising), key=problem.loss)
    return give_back(problem, best)


def _tightened(problem: AdditiveProblem, full: Levels, excess: float) -> Levels:
    """Follow the solution from the uncompressed target while the budget shrinks to its own."""
    levels = full
    steps = max(1, math.ceil(math.log(excess) / -math.log(_SHRINK)))
    for step in range(1, steps + 1):
        levels = _relinearised(problem, levels, excess ** (1.0 - step / steps), radius=None)
    return levels


def _even(problem: AdditiveProblem) -> Levels:
    """Return the highest vector within the budget whose levels are all equally high."""
    low, high = 0.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        levels = _at_height(problem, middle)
        fits = (problem.usage(levels[None]) <= 1.0).all()
        low, high = (middle, high) if fits else (low, middle)
    return _at_height(problem, low)


def _at_height(problem: AdditiveProblem, height: float) -> Levels:
    levels: Levels = np.floor(height * (problem.counts - 1)).astype(np.int64)
    return levels


def _settle(problem: AdditiveProblem, levels: Levels) -> list[Levels]:
    """Linearise and solve again and again, in an ever smaller neighbourhood; return all results.

    Where the linear costs are wrong the solutions would jump back and forth without it.
    """
    found: list[Levels] = []
    radius = float(problem.counts.max())
    while radius >= 1.0:
        radius /= 2
        before = levels
        levels = _relinearised(problem, before, 1.0, math.ceil(radius))
        found.append(levels)
        if (levels == before).all():
            break
    return found


def _relinearised(
    problem: AdditiveProblem, levels: Levels, target: float, radius: int | None
) -> Levels:
    """Solve the problem with costs linearised around a vector.

    Args:
        problem: Losses and costs.
        levels: Where costs are exact, shape ``(D,)``.
        target: Usage to reach, in units of the bounds, at least 1.
        radius: Levels that each dimension may move up or down; None for any.
    """
    columns = np.arange(problem.losses.shape[1])
    offered = columns < problem.counts[:, None]
    if radius is not None:
        offered &= np.abs(columns - levels[:, None]) <= radius
    used = problem.usage(levels[None])[0]
    dimensions, targets = np.nonzero(offered)
    weights = np.zeros((*offered.shape, len(used)))
    weights[offered] = problem.usage_after(levels, (dimensions, targets)) - used
    losses = np.where(offered, problem.losses, np.inf)
    # A bound that already holds does not become looser on the way.
    return solve_knapsack(losses, weights, np.maximum(target, 1.0) - used)


def _distinct(found: list[Levels]) -> list[Levels]:
    return list({levels.tobytes(): levels for levels in found}.values())
