"""A space with fewer levels, and what its levels are in the full one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.space.budget import CostFunction
from rl_compress.space.search_space import Levels, SearchSpace


class Thinned:
    """Translates levels; a cost function of the thinned space as well."""

    def __init__(self, space: SearchSpace, most: int, cost_function: CostFunction) -> None:
        """Tabulate the levels.

        Args:
            space: The full space.
            most: Levels to leave in each dimension.
            cost_function: Exact costs of levels of the full space.
        """
        self.space, self._full, self._costs = space.thinned(most), space, cost_function
        expanded, nearest = [], []
        for full, thin in zip(space.dimensions, self.space.dimensions, strict=True):
            expanded.append(np.searchsorted(full.amounts, thin.amounts))
            between = [(low + high) / 2 for low, high in pairwise(thin.amounts)]
            nearest.append(np.searchsorted(between, full.amounts))
        self._expanded, self._nearest = np.concatenate(expanded), np.concatenate(nearest)

    def nearest(self, levels: Levels) -> Levels:
        """Return the thinned levels next to those of the full space, in their shape."""
        return self._nearest[self._full.indices(levels)]

    def costs(self, levels: Levels) -> dict[str, float]:
        """See :meth:`CostFunction.costs`; of levels of the thinned space."""
        return self._costs.costs(self._expanded[self.space.indices(levels)])

    def batch(self, levels: Levels) -> Mapping[str, npt.NDArray[Any]]:
        """See :meth:`CostFunction.batch`; of levels of the thinned space."""
        return self._costs.batch(self._expanded[self.space.indices(levels)])
