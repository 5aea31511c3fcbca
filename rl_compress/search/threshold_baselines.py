"""Baselines that put one threshold on the importance of all units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl_compress.policy.budget import Budget, CostFunction
from rl_compress.policy.search_space import SearchSpace

Keep = npt.NDArray[np.float64]

_STEP = 0.98
"""Factor from one number of units kept in all to the next."""


class Global:
    """Global ranking: all units compete, where uniform pruning ranks within each group.

    Importances are divided by their mean over the group, or over the layer that single units are
    in, so that no layer wins by its scale. First at the budget, then ever tighter.
    """

    fill = False

    def __init__(
        self,
        space: SearchSpace,
        importances: Sequence[npt.NDArray[np.float64]],
        layers: Sequence[str],
        budget: Budget,
        cost_function: CostFunction,
    ) -> None:
        """Rank all units.

        Args:
            space: Allowed widths.
            importances: For each group of the space the importance of its units.
            layers: For each group of the space the layer group it is in.
            budget: Upper bounds.
            cost_function: Exact costs of widths.
        """
        self._space, self._budget, self._costs = space, budget, cost_function
        self._relative = _by_layer_mean(importances, layers)
        self._sorted = np.sort(np.concatenate(self._relative))[::-1]
        self._count = float(len(self._sorted))

    def ask(self) -> Keep | None:
        """Return the next candidate within the budget."""
        while self._count >= 1:
            threshold = self._sorted[int(self._count) - 1]
            keep = np.array([(scores >= threshold).mean() for scores in self._relative])
            # Steps of at least one unit, or the last ones would take forever.
            self._count = min(self._count * _STEP, self._count - 1)
            wanted = self._space.floor(keep * self._space.num_units)
            if self._budget.admits(self._costs.costs(wanted)):
                return wanted / self._space.num_units
        return None

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""


class Contribution:
    """Contribution pruning by itself: what it kept, then what other thresholds would have kept.

    The first candidate keeps the units whose cumulative contribution is above the job's threshold;
    the others come from the same contributions, tighter and looser in turn.
    """

    fill = False

    def __init__(self, importances: Sequence[npt.NDArray[np.float64]], threshold: float) -> None:
        """Collect the thresholds.

        Args:
            importances: For each group of the space the contributions of its units.
            threshold: The job's.
        """
        self._contributions = importances
        found = np.unique(np.concatenate(importances))
        above = found[found > threshold]
        below = found[found <= threshold][::-1]
        alternating = [
            level
            for pair in zip(
                np.pad(above, (0, max(0, len(below) - len(above))), constant_values=np.nan),
                np.pad(below, (0, max(0, len(above) - len(below))), constant_values=np.nan),
                strict=True,
            )
            for level in pair
            if np.isfinite(level)
        ]
        # Just below a contribution it is kept.
        self._thresholds = [threshold, *(np.nextafter(level, -np.inf) for level in alternating)]

    def ask(self) -> Keep | None:
        """Return what the next threshold keeps."""
        if not self._thresholds:
            return None
        threshold = self._thresholds.pop(0)
        return np.array([(scores > threshold).mean() for scores in self._contributions])

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""


def _by_layer_mean(
    importances: Sequence[npt.NDArray[np.float64]], layers: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    pooled: dict[str, list[npt.NDArray[np.float64]]] = {}
    for scores, layer in zip(importances, layers, strict=True):
        pooled.setdefault(layer, []).append(scores)
    means = {layer: abs(np.concatenate(parts)).mean() for layer, parts in pooled.items()}
    return [
        scores / max(means[layer], np.finfo(np.float64).tiny)
        for scores, layer in zip(importances, layers, strict=True)
    ]
