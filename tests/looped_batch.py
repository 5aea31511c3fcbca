"""Costs of batches for fake cost functions that know the costs of one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.space.search_space import Widths


class LoopedBatch:
    """Adds ``batch`` to a class with ``costs``."""

    def batch(self: Any, widths: Widths) -> dict[str, npt.NDArray[Any]]:
        rows = [self.costs(row) for row in widths]
        return {cost: np.array([row[cost] for row in rows]) for cost in rows[0]}
