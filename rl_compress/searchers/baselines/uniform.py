"""The baseline that every compression method is compared with: all dimensions alike."""

from __future__ import annotations

import numpy as np

from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.space.mask_projection import decides_masks

_TIGHTER = 0.97
"""Factor from one candidate to the next."""

_HALF = 0.5
"""With masks, the fraction kept from which a unit stays."""


class Uniform(Searcher):
    """The same fraction everywhere: first at the budget, then at ever tighter ones."""

    fill = False
    seeded = False
    _keep = 1.0

    def ask(self) -> Keep | None:
        """Return the next, slightly lower, uniform candidate."""
        space = self.problem.space
        keep = np.full(len(space), self._keep)
        if (keep * space.full_amounts < space.amounts(space.smallest)).all():
            return None
        if decides_masks(space) and self._keep < _HALF:
            return None  # a unit of its own is either kept or not
        self._keep *= _TIGHTER
        return keep
