"""The varied keys of a sweep as columns of numbers, and which of them matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_LOG_FROM = 30.0
"""Positive values that differ by this factor or more are shown on a logarithmic axis."""

FEWEST_TRIALS = 8
"""Of fewer trials no importance is computed."""

_TREES = 200
_SHUFFLES = 30

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one key over all trials."""

    key: str
    values: Values
    """Shape ``(num_trials,)``; for a key of words the numbers of its :attr:`words`."""
    words: tuple[str, ...] = ()
    logarithmic: bool = False

    @property
    def positions(self) -> Values:
        """The values on their axis, linear or logarithmic."""
        return np.log10(self.values) if self.logarithmic else self.values


def column(rows: Sequence[Mapping[str, Any]], key: str) -> Column:
    """Return a key's column; anything but numbers counts as words."""
    raw = [row[key] for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in raw):
        values = np.array(raw, dtype=np.float64)
        low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
        return Column(key, values, logarithmic=bool(low > 0 and high / low >= _LOG_FROM))
    texts = [str(value) for value in raw]
    words = tuple(sorted(set(texts)))
    return Column(key, np.array([words.index(text) for text in texts], dtype=np.float64), words)


@dataclass(frozen=True, slots=True)
class Importances:
    """How much each key explains of a figure."""

    mean: Values
    """Shape ``(num_keys,)``: what a forest's R^2 loses when the key's values are shuffled."""
    deviation: Values
    """Standard deviation over the shuffles, of the same shape."""
    explained: float
    """R^2 of the forest on trials that a tree has not seen; 0 or less: it predicts nothing."""


def importances(columns: Sequence[Column], figure: Values) -> Importances | None:
    """Return the importance of keys for a figure of the trials.

    Permutation importance (Breiman, "Random Forests", Machine Learning 2001, section 10) in a
    random forest of regression trees, with a fixed seed.

    Args:
        columns: One for each key.
        figure: Finite, shape ``(num_trials,)``.

    Returns:
        None for fewer than :data:`FEWEST_TRIALS` trials, or where all figures are the same.
    """
    if len(figure) < FEWEST_TRIALS or np.ptp(figure) == 0.0:
        return None
    # A second to import, for the report of a sweep alone.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    inputs = np.stack([one.positions for one in columns], axis=1)
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0).fit(inputs, figure)
    found = permutation_importance(forest, inputs, figure, n_repeats=_SHUFFLES, random_state=0)
    return Importances(
        mean=found.importances_mean,
        deviation=found.importances_std,
        explained=float(forest.oob_score_),
    )
