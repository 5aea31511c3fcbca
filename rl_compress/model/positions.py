"""Positions on the axes of tensors, and which of them can only go together."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
"""Positions by number, one for each index of an axis."""

FIXED = 0
"""The position that always stays: of whatever does not become narrower."""


@functools.lru_cache(maxsize=256)
def fixed(size: int) -> Ids:
    """Return the positions of an axis that stays as it is, shape ``(size,)``."""
    ids = np.full(size, FIXED, dtype=np.int64)
    ids.setflags(write=False)
    return ids


def varies(ids: Ids | None) -> bool:
    """Say whether an axis has positions that may go."""
    return ids is not None and ids is not fixed(len(ids)) and bool(ids.any())


class Positions:
    """Disjoint sets of positions (union by arrays), and reasons why some must stay."""

    def __init__(self) -> None:
        """Start with the position that always stays."""
        self._parents = np.zeros(1024, dtype=np.int64)
        self._size = 1
        self._kept: list[tuple[Ids, str]] = []

    def __len__(self) -> int:
        """Return how many positions there are."""
        return self._size

    def new(self, size: int) -> Ids:
        """Return that many new positions, increasing, each a set of its own."""
        start, self._size = self._size, self._size + size
        if self._size > len(self._parents):
            self._parents = np.resize(self._parents, 2 * self._size)
        ids = np.arange(start, self._size, dtype=np.int64)
        self._parents[start : self._size] = ids
        return ids

    def sets(self, ids: Ids) -> Ids:
        """Return the number of each position's set, shape of ``ids``."""
        while True:
            parents = self._parents[ids]
            if np.array_equal(parents, ids):
                return parents
            ids = parents

    def unite(self, one: Ids, other: Ids, reason: str) -> Ids:
        """Make positions go together, pair by pair, and return them; those that stay as fixed.

        Args:
            one: Positions, shape ``(n,)``.
            other: Those that lie in the same places, shape ``(n,)``.
            reason: Why positions that meet one that always stays must stay too.
        """
        if one is other:
            return one
        stays = (one == FIXED) != (other == FIXED)
        if stays.any():
            self.keep(np.where(one == FIXED, other, one)[stays], reason)
        first, second = self.sets(one), self.sets(other)
        different = (first != second) & ~stays
        if different.any():
            low = np.minimum(first, second)[different]
            high = np.maximum(first, second)[different]
            if len(np.unique(high)) == len(high) and not np.isin(low, high).any():
                self._parents[high] = low
            else:
                for left, right in zip(low.tolist(), high.tolist(), strict=True):
                    self._unite(left, right)
        return np.where(stays, FIXED, one) if stays.any() else one

    def keep(self, ids: Ids, reason: str) -> None:
        """Let positions, and whatever goes with them, stay."""
        ids = ids[ids != FIXED]
        if len(ids):
            self._kept.append((ids, reason))

    def reasons(self) -> dict[int, str]:
        """Return for each set that must stay the first reason."""
        found: dict[int, str] = {}
        for ids, reason in self._kept:
            for root in np.unique(self.sets(ids)).tolist():
                found.setdefault(root, reason)
        return found

    def _unite(self, left: int, right: int) -> None:
        ends = []
        for position in (left, right):
            while self._parents[position] != position:
                position = int(self._parents[position])
            ends.append(position)
        self._parents[max(ends)] = min(ends)
