"""A searcher of a user's own."""

from __future__ import annotations

import numpy as np

from rl_compress.registry import Part
from rl_compress.searchers.searcher import Keep, Searcher


class Near(Searcher):
    """Random vectors around the middle."""

    class Config(Part.Config):
        spread: float = 0.2

    def ask(self) -> Keep:
        self.asked = getattr(self, "asked", 0) + 1
        rng = np.random.default_rng([self.problem.seed, self.asked])
        return np.clip(rng.normal(0.5, self.config.spread, len(self.problem.space)), 0.05, 1.0)
