"""Costs of levels for fake cost functions that know what the amounts of one vector cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.space.search_space import Levels, SearchSpace


class LoopedBatch:
    """Adds ``costs`` and ``batch`` of levels to a class with costs ``of`` amounts."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def costs(self: Any, levels: Levels) -> dict[str, Any]:
        return self.of(self.space.amounts(levels))

    def batch(self: Any, levels: Levels) -> dict[str, npt.NDArray[Any]]:
        rows = [self.costs(row) for row in levels]
        return {cost: np.array([row[cost] for row in rows]) for cost in rows[0]}
