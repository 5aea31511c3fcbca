"""Random search."""

from __future__ import annotations

import numpy as np

from rl_compress.searchers.baselines.baseline import Keep
from rl_compress.space.mask_projection import decides_masks
from rl_compress.space.search_space import SearchSpace


class Random:
    """For every dimension one of its allowed levels, all equally likely."""

    fill = True

    def __init__(self, space: SearchSpace, seed: int) -> None:
        """Seed the generator."""
        self._levels = [np.array(group.widths) / group.num_units for group in space.groups]
        self._masks = decides_masks(space)
        self._rng = np.random.default_rng(seed)

    def ask(self) -> Keep:
        """Draw a candidate; of a mask first how dense it is."""
        if self._masks:
            density = self._rng.uniform()
            return (self._rng.uniform(size=len(self._levels)) < density).astype(float)
        return np.array([self._rng.choice(levels) for levels in self._levels])

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""
