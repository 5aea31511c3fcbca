"""The active set: the few records that the reward predictor learns from, once there are many.

A Gaussian process on N records takes N^3 steps to fit and N^2 for each prediction. As in sparse
ones (Quiñonero-Candela and Rasmussen, JMLR 2005) a subset stands for all: the best records, those
nearest to the best one, where the search goes on, and some spread over the rest, which tell how
rewards differ at large. It is chosen anew as records grow by a step; those of the last step are all
in it. What is chosen depends on the records and their order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.known import best_within
from rl_compress.searchers.reward_predictor import Floats
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace

BOUND = 256
"""Records up to which all are learned from, unless told otherwise."""

_GROWN = 1.1
"""Growth of the records after which the predictor's kernel is looked for again."""


@dataclass(frozen=True, slots=True)
class ActiveSets:
    """Which records are learned from, by how many are known."""

    bound: int = BOUND
    """Records up to which all are."""

    @property
    def step(self) -> int:
        """Return the number of records after which the set is chosen anew."""
        return max(self.bound // 4, 1)

    @property
    def chosen(self) -> int:
        """Return the number of records that are chosen."""
        return self.bound - self.step

    def settled(self, size: int) -> int:
        """Return of how many records the set is chosen where so many are known."""
        return size // self.step * self.step

    def tuned(self, size: int) -> int:
        """Return of how many records the kernel is found, where the set is chosen of so many."""
        last = self.settled(self.bound)
        for grown in range(last, size + 1, self.step):
            if grown >= _GROWN * last:
                last = grown
        return last

    def choose(
        self,
        levels: Levels,
        rewards: Floats,
        budgets: Sequence[Budget],
        space: SearchSpace,
        costs: CostFunction,
    ) -> npt.NDArray[np.int64]:
        """Choose among records.

        Args:
            levels: Shape ``(N, D)``.
            rewards: Shape ``(N,)``.
            budgets: What variants are sought for; each has a best record.
            space: The dimensions.
            costs: Exact costs of levels.

        Returns:
            Positions in ascending order, shape ``(chosen,)`` at most.
        """
        kept, orders = space.kept(levels), []
        for budget in budgets:
            best = best_within(levels, rewards, budget, costs, self.chosen)
            if len(best):
                orders.append(best.tolist())
                distances = ((kept - kept[best[0]]) ** 2).sum(axis=1)
                orders.append(np.argsort(distances, kind="stable")[: len(best)].tolist())
        near: dict[int, None] = {}
        for index in chain.from_iterable(zip_longest(*orders)):
            if index is not None and len(near) < 2 * self.chosen // 3:
                near.setdefault(index)
        taken = np.fromiter(near, dtype=np.int64, count=len(near))
        rest = np.setdiff1d(np.arange(len(levels)), taken)
        spread = np.linspace(0, max(len(rest) - 1, 0), min(self.chosen - len(near), len(rest)))
        return np.unique(np.concatenate([taken, rest[spread.astype(np.int64)]]))
