"""The additive problem: losses of dimensions that add up, under budgets on costs that do not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.raising import Raising, Steps
from rl_compress.space.search_space import Levels, SearchSpace

_BATCH_ELEMENTS = 2**18
"""Most elements of the vectors whose costs are asked for at once; bounds the memory."""
_ABOVE = float(np.nextafter(1.0, 2.0))
"""The least usage of a bound that does not hold."""


class AdditiveProblem:
    """Losses of all levels, and exact costs of any candidate."""

    def __init__(
        self,
        losses: list[npt.NDArray[np.float64]],
        space: SearchSpace,
        budget: Budget,
        cost_function: CostFunction,
    ) -> None:
        """Tabulate the levels.

        Args:
            losses: For each dimension the loss at each level, never increasing.
            space: The dimensions.
            budget: Upper bounds.
            cost_function: Exact costs of vectors; monotone in every dimension.
        """
        self.counts = space.full + 1
        """Levels of each dimension, shape ``(D,)``."""
        self.losses = np.full((len(space), int(self.counts.max())), np.inf)
        """Shape ``(D, L)``, infinite beyond a dimension's last level."""
        for row, table in zip(self.losses, losses, strict=True):
            row[: len(table)] = table
        self._rows = np.arange(len(space))
        self._names = [cost for cost, _ in budget.bounds]
        self._bounds = np.array([bound for _, bound in budget.bounds], dtype=np.float64)
        self._budget, self._cost_function = budget, cost_function

    def loss(self, levels: Levels) -> float:
        """Return the summed loss at levels of shape ``(D,)``."""
        return float(self.losses[self._rows, levels].sum())

    def usage(self, levels: Levels) -> npt.NDArray[np.float64]:
        """Return what is used of each bound, in units of the bound.

        Args:
            levels: Shape ``(N, D)``.

        Returns:
            Shape ``(N, B)``; at most 1 where a bound holds, exactly.
        """
        size = max(1, _BATCH_ELEMENTS // max(levels.shape[1], 1))
        parts = [self._costs(levels[start : start + size]) for start in range(0, len(levels), size)]
        costs = np.concatenate([np.empty((0, len(self._names))), *parts])
        used = costs / self._bounds
        # Division rounds: whether a bound holds is asked of the costs themselves.
        return np.where(costs <= self._bounds, np.minimum(used, 1.0), np.maximum(used, _ABOVE))

    def usage_after(self, levels: Levels, moves: tuple[Levels, Levels]) -> npt.NDArray[np.float64]:
        """Return the usage after each of several moves made alone.

        Args:
            levels: Where the moves start, shape ``(D,)``.
            moves: Dimensions and the levels that they move to, shape ``(N,)`` each.

        Returns:
            Shape ``(N, B)``.
        """
        dimensions, targets = moves
        moved = np.tile(levels, (len(dimensions), 1))
        moved[np.arange(len(dimensions)), dimensions] = targets
        return self.usage(moved)

    def raised(self, levels: Levels, moves: tuple[Levels, Levels]) -> Levels:
        """Return where raises lead that are made one after the other, as long as they fit.

        Args:
            levels: Within the budget, shape ``(D,)``.
            moves: Dimensions and the levels that they rise to, shape ``(N,)`` each, those of a
                dimension one by one; when one does not fit, its dimension stays where it is.
        """
        raising = Raising(levels, self._budget, self._cost_function)
        raising.raise_each(Steps(*moves))
        return raising.levels

    def _costs(self, levels: Levels) -> npt.NDArray[np.float64]:
        found = self._cost_function.batch(levels)
        return np.stack([np.asarray(found[n], dtype=np.float64) for n in self._names], axis=1)
