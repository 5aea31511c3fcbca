"""Raising levels within a budget: steps are taken in an order, as many as fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels

_PROBES = 32
"""Vectors whose costs are asked for at once when looking for the longest part that fits."""

_ROUNDING = 1e-12
"""Real costs, such as latency, stay this far below their bound, relative to it: sums may differ in
their last digits between one vector and a batch of many, and one vector alone must be within."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Raises, each of one dimension to its next level, in an order."""

    dimensions: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.dimensions)

    def of(self, chosen: Any) -> Steps:
        """Return some of the steps."""
        return Steps(self.dimensions[chosen], self.levels[chosen])

    def next_ones(self) -> Steps:
        """Return the first step of every dimension that has one."""
        first = np.full(self.dimensions.max(initial=-1) + 1, -1)
        # Of several steps of one dimension the one written last, which is the first, stands.
        first[self.dimensions[::-1]] = np.arange(len(self.dimensions))[::-1]
        return self.of(first[first >= 0])


class Raising:
    """Levels on their way up; they meet the budget at every moment."""

    def __init__(self, levels: Levels, budget: Budget, cost_function: CostFunction) -> None:
        """Begin.

        Args:
            levels: Within the budget, shape ``(D,)``.
            budget: Upper bounds.
            cost_function: Exact costs of levels; raising a level must not lower a cost.
        """
        self.levels = levels
        self.budget = budget
        self._batch = cost_function.batch

    def raise_along(self, steps: Steps) -> int:
        """Take steps in their order until one does not fit.

        Returns:
            How many were taken.
        """
        taken, limit = 0, len(steps)  # `taken` steps fit, more than `limit` do not
        while taken < limit:
            stride = -(-(limit - taken) // _PROBES)
            probes = np.arange(limit, taken, -stride)[::-1]
            candidates = self._after(steps, taken, probes)
            fitting = self._fit(candidates)
            # Costs do not fall, so what follows the first that does not fit does not fit either.
            count = len(probes) if fitting.all() else int(fitting.argmin())
            if count < len(probes):
                limit = int(probes[count]) - 1
            if count:
                self.levels, taken = candidates[count - 1], int(probes[count - 1])
        return taken

    def raise_each(self, steps: Steps) -> None:
        """Take steps in their order, leaving out those of dimensions that do not fit any more."""
        while len(steps):
            upcoming = steps.next_ones()
            fitting = self._fit(self.after_each(upcoming))
            open_dimensions = np.zeros(len(self.levels), dtype=bool)
            open_dimensions[upcoming.dimensions[fitting]] = True
            steps = steps.of(open_dimensions[steps.dimensions])
            steps = steps.of(slice(self.raise_along(steps), None))

    def after_each(self, steps: Steps) -> Levels:
        """Return the levels after each of the steps alone, shape ``(len(steps), D)``."""
        raised = np.repeat(self.levels[None], len(steps), axis=0)
        raised[np.arange(len(steps)), steps.dimensions] = steps.levels
        return raised

    def marginal_costs(self, steps: Steps) -> npt.NDArray[np.float64]:
        """Return what each step costs, by what each bound has left, shape ``(len(steps),)``."""
        costs = self._batch(np.concatenate([self.levels[None], self.after_each(steps)]))
        total = np.zeros(len(steps))
        for cost, bound in self.budget.bounds:
            now, after = float(costs[cost][0]), costs[cost][1:].astype(np.float64)
            total += (after - now) / max(bound - now, 1e-9 * bound)
        return total

    def _after(self, steps: Steps, taken: int, counts: npt.NDArray[np.int64]) -> Levels:
        """Return the levels after numbers of steps, of which some are taken already."""
        raised = np.repeat(self.levels[None], len(counts), axis=0)
        part = slice(taken, counts[-1])
        dimensions, levels = steps.dimensions[part], steps.levels[part]
        first = np.searchsorted(counts, np.arange(taken, counts[-1]), side="right")
        # Of several steps of one dimension the last, which is the highest, stands.
        raised[first, dimensions] = levels
        return np.maximum.accumulate(raised, axis=0)

    def _fit(self, candidates: Levels) -> npt.NDArray[np.bool_]:
        """Say which vectors are within every bound, shape ``(len(candidates),)``."""
        costs = self._batch(candidates)
        fitting = np.ones(len(candidates), dtype=bool)
        for cost, bound in self.budget.bounds:
            exact = np.issubdtype(costs[cost].dtype, np.integer)
            fitting &= costs[cost] <= (bound if exact else bound * (1.0 - _ROUNDING))
        return fitting
