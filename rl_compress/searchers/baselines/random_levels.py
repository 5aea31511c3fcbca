"""Random search."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.space.mask_projection import decides_masks


class Random(Searcher):
    """For every dimension one of its allowed levels, all equally likely."""

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Seed the generator."""
        super().__init__(problem, config)
        space = problem.space
        self._kept = [np.array(own.amounts) / own.full for own in space.dimensions]
        self._masks = decides_masks(space)
        self._rng = np.random.default_rng(problem.seed)

    def ask(self) -> Keep:
        """Draw a candidate; of a mask first how dense it is."""
        if self._masks:
            density = self._rng.uniform()
            return (self._rng.uniform(size=len(self._kept)) < density).astype(float)
        return np.array([self._rng.choice(kept) for kept in self._kept])
