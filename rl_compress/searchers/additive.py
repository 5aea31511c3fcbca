"""The additive problem: losses of dimensions that add up, under budgets on costs that do not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.raising import Raising, Steps
from rl_compress.space.search_space import SearchSpace, Widths

Positions = npt.NDArray[np.int64]
"""For each dimension the position of a level among its allowed ones, shape ``(D,)``."""

_BATCH_ELEMENTS = 2**18
"""Most elements of the vectors whose costs are asked for at once; bounds the memory."""
_ABOVE = float(np.nextafter(1.0, 2.0))
"""The least usage of a bound that does not hold."""


class AdditiveProblem:
    """Losses of all levels, and exact costs of any vector of them."""

    def __init__(
        self,
        losses: list[npt.NDArray[np.float64]],
        space: SearchSpace,
        budget: Budget,
        cost_function: CostFunction,
    ) -> None:
        """Tabulate the levels.

        Args:
            losses: For each dimension the loss at each allowed level, never increasing.
            space: Allowed levels.
            budget: Upper bounds.
            cost_function: Exact costs of vectors; monotone in every dimension.
        """
        self.counts = np.array([len(group.widths) for group in space.groups])
        """Allowed levels of each dimension, shape ``(D,)``."""
        shape = (len(space), int(self.counts.max()))
        self.losses = np.full(shape, np.inf)
        """Shape ``(D, L)``, infinite beyond a dimension's last level."""
        self._levels = np.zeros(shape, dtype=np.int64)
        for index, (group, table) in enumerate(zip(space.groups, losses, strict=True)):
            self.losses[index, : len(table)] = table
            self._levels[index, : len(table)] = group.widths
        self._rows = np.arange(len(space))
        self._names = [cost for cost, _ in budget.bounds]
        self._bounds = np.array([bound for _, bound in budget.bounds], dtype=np.float64)
        self._budget, self._cost_function = budget, cost_function

    def widths(self, positions: Positions) -> Widths:
        """Return the levels at positions, both of shape ``(..., D)``."""
        return self._levels[self._rows, positions]

    def loss(self, positions: Positions) -> float:
        """Return the summed loss at positions of shape ``(D,)``."""
        return float(self.losses[self._rows, positions].sum())

    def usage(self, positions: Positions) -> npt.NDArray[np.float64]:
        """Return what is used of each bound, in units of the bound.

        Args:
            positions: Shape ``(N, D)``.

        Returns:
            Shape ``(N, B)``; at most 1 where a bound holds, exactly.
        """
        size = max(1, _BATCH_ELEMENTS // max(positions.shape[1], 1))
        parts = [
            self._costs(self.widths(positions[start : start + size]))
            for start in range(0, len(positions), size)
        ]
        costs = np.concatenate([np.empty((0, len(self._names))), *parts])
        used = costs / self._bounds
        # Division rounds: whether a bound holds is asked of the costs themselves.
        return np.where(costs <= self._bounds, np.minimum(used, 1.0), np.maximum(used, _ABOVE))

    def usage_after(
        self, positions: Positions, moves: tuple[Positions, Positions]
    ) -> npt.NDArray[np.float64]:
        """Return the usage after each of several moves made alone.

        Args:
            positions: Where the moves start, shape ``(D,)``.
            moves: Dimensions and the positions that they move to, shape ``(N,)`` each.

        Returns:
            Shape ``(N, B)``.
        """
        dimensions, targets = moves
        moved = np.tile(positions, (len(dimensions), 1))
        moved[np.arange(len(dimensions)), dimensions] = targets
        return self.usage(moved)

    def raised(self, positions: Positions, moves: tuple[Positions, Positions]) -> Positions:
        """Return where raises lead that are made one after the other, as long as they fit.

        Args:
            positions: Within the budget, shape ``(D,)``.
            moves: Dimensions and the positions that they rise to, shape ``(N,)`` each, those of a
                dimension one by one; when one does not fit, its dimension stays where it is.
        """
        raising = Raising(self.widths(positions), self._budget, self._cost_function)
        raising.raise_each(Steps(moves[0], self._levels[moves]))
        return (self._levels == raising.levels[:, None]).argmax(axis=1)

    def _costs(self, widths: Widths) -> npt.NDArray[np.float64]:
        found = self._cost_function.batch(widths)
        return np.stack([np.asarray(found[n], dtype=np.float64) for n in self._names], axis=1)
