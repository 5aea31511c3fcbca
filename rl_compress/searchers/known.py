"""What a search knows: the records as it learns from them, and what was learned of most of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.reward_predictor import Fit, Floats
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace

_CHUNK = 512
"""Records whose costs are asked for at once."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What was learned of the first records, once for all who know them."""

    size: int
    """Number of those records."""
    fit: Fit
    """To some of them."""
    rewards: Floats
    """Of the records fitted to."""
    best: Mapping[Budget, tuple[Levels, Floats]]
    """The best of all within each budget, with their rewards, from the best on."""


class Known:
    """Records in the order in which they became known; it grows at its end."""

    def __init__(self, levels: Levels | None = None, rewards: Floats | None = None) -> None:
        """Begin with some records, or none.

        Args:
            levels: Shape ``(N, D)``.
            rewards: Shape ``(N,)``.
        """
        self._levels = np.zeros((0, 0), dtype=np.int64) if levels is None else levels
        self._rewards = np.zeros(0) if rewards is None else rewards
        self._size = len(self._levels)
        self._keys = set(keys_of(self._levels))
        self.basis: Basis | None = None
        """What was learned of the first of them; None where that was not done."""

    @classmethod
    def of(cls, records: Sequence[EvaluationRecord], space: SearchSpace) -> Known:
        """Return what records of a space tell."""
        if not records:
            return cls()
        return cls(
            np.stack([space.levels_of(record.realised_policy()) for record in records]),
            np.array([record.reward for record in records]),
        )

    @property
    def levels(self) -> Levels:
        """Return their levels, shape ``(N, D)``; a view, which cutting and adding may change."""
        return self._levels[: self._size]

    @property
    def rewards(self) -> Floats:
        """Return their rewards, shape ``(N,)``; likewise."""
        return self._rewards[: self._size]

    def __len__(self) -> int:
        """Return the number of records."""
        return self._size

    def __contains__(self, levels: Levels) -> bool:
        """Say whether a variant was measured."""
        return levels.tobytes() in self._keys

    def add(self, levels: Levels, rewards: Floats) -> None:
        """Append the records that are not known yet.

        Args:
            levels: Shape ``(M, D)``.
            rewards: Shape ``(M,)``.
        """
        new = [index for index, key in enumerate(keys_of(levels)) if key not in self._keys]
        if not new:
            return
        end = self._size + len(new)
        if end > len(self._levels):
            room = np.zeros((max(2 * self._size, end), levels.shape[1]), dtype=np.int64)
            more = np.zeros(len(room))
            if self._size:
                room[: self._size], more[: self._size] = self.levels, self.rewards
            self._levels, self._rewards = room, more
        self._levels[self._size : end], self._rewards[self._size : end] = levels[new], rewards[new]
        self._keys.update(keys_of(levels[new]))
        self._size = end

    def cut(self, size: int) -> None:
        """Forget all but the first records."""
        self._keys.difference_update(keys_of(self.levels[size:]))
        self._size = min(size, self._size)

    def best(self, budget: Budget, costs: CostFunction, count: int) -> tuple[Levels, Floats]:
        """Return the best records within a budget, with their rewards, from the best on.

        Args:
            budget: Upper bounds; records may be of looser ones.
            costs: Exact costs of levels.
            count: How many, at most.
        """
        levels, rewards = self.levels, self.rewards
        if self.basis is not None and budget in self.basis.best:
            before, its_rewards = self.basis.best[budget]
            levels = np.concatenate([before, levels[self.basis.size :]])
            rewards = np.concatenate([its_rewards, rewards[self.basis.size :]])
        order = best_within(levels, rewards, budget, costs, count)
        return levels[order], rewards[order]


Records = Callable[[], Known]


def within(levels: Levels, budget: Budget, costs: CostFunction) -> npt.NDArray[np.bool_]:
    """Return which levels of shape ``(N, D)`` are within a budget, shape ``(N,)``."""
    found = costs.batch(levels)
    return np.logical_and.reduce([found[cost] <= bound for cost, bound in budget.bounds])


def best_within(
    levels: Levels, rewards: Floats, budget: Budget, costs: CostFunction, count: int
) -> npt.NDArray[np.int64]:
    """Return where the best records within a budget are, from the best on.

    Args:
        levels: Shape ``(N, D)``.
        rewards: Shape ``(N,)``.
        budget: Upper bounds.
        costs: Exact costs of levels, asked for of no more records than it takes.
        count: How many, at most.
    """
    order, found = np.argsort(-rewards, kind="stable"), np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), _CHUNK):
        if len(found) < count:
            some = order[start : start + _CHUNK]
            found = np.concatenate([found, some[within(levels[some], budget, costs)]])
    return found[:count]


def keys_of(rows: Levels) -> list[bytes]:
    """Return what tells rows apart, far quicker than row by row."""
    if not rows.size:
        return []
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    keys: list[Any] = whole.ravel().tolist()
    return keys
