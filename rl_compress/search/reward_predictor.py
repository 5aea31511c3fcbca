"""A predictor of the loss of variants that were not measured, learned from those that were.

A Gaussian process on the logarithm of the loss. Its mean is what the sensitivity curves add up to;
its kernel is a sum over dimensions, for what the curves say wrongly of each, and a joint part, for
what dimensions do to each other (Duvenaud et al., "Additive Gaussian Processes", NeurIPS 2011). A
hundred records of some tens of dimensions are enough for it, where a network would need thousands.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from rl_compress.policy.search_space import SearchSpace, Widths
from rl_compress.search.sensitivity import SensitivityCurves

Floats = npt.NDArray[np.float64]

_TRUST = (0.5, 1.0)
"""Exponents of the additive loss that are tried: curves are steeper than what they add up to."""
_OWN_LENGTHS = (0.15, 0.4, 1.0)
"""Length scales along one dimension, as fractions of its largest level."""
_JOINT_LENGTHS = (0.7, 1.5)
"""Length scales over all dimensions, in units of the records' median distance."""
_OWN_SHARES = (0.3, 0.7)
"""Share of the variance that the sum over dimensions explains."""
_NOISES = (0.01, 0.1)

_SMALLEST_LOSS = 0.02
"""Losses below this share of their median are taken as this: their logarithms are mostly noise."""


class RewardPredictor:
    """Predicts the logarithm of a variant's loss of reward, with its uncertainty."""

    def __init__(self, space: SearchSpace, curves: SensitivityCurves) -> None:
        """Tabulate what can be known before there are records.

        Args:
            space: Allowed levels.
            curves: What each dimension's compression costs alone.
        """
        self._levels = [np.array(group.widths) for group in space.groups]
        self._keep = [levels / levels[-1] for levels in self._levels]
        losses = [curves.loss_table(i, levels) for i, levels in enumerate(self._levels)]
        smallest = 1e-6 * max(max(float(loss.max()) for loss in losses), 1e-12)
        self._losses = [np.maximum(loss, smallest) for loss in losses]

    def positions(self, widths: Widths) -> Widths:
        """Return the places of levels among those allowed, shape ``(N, D)`` as ``widths``."""
        columns = [np.searchsorted(lv, widths[:, i]) for i, lv in enumerate(self._levels)]
        return np.stack(columns, axis=1)

    def fit(self, widths: Widths, losses: Floats) -> None:
        """Learn from records; the most likely length scales and shares are taken.

        Args:
            widths: Levels, shape ``(N, D)``, at least two rows.
            losses: Reward of the uncompressed target minus theirs, shape ``(N,)``.
        """
        places = self.positions(widths)
        self._known = self._kept(places)
        floor = max(_SMALLEST_LOSS * float(np.median(losses)), 1e-12)
        observed = np.log(np.maximum(losses, floor))
        additive = self._additive(places)
        distances = _distances(self._known, self._known)
        others = distances[np.triu_indices(len(places), 1)]
        unit = max(float(np.median(others)), 1e-6)
        joint = {length: _matern(distances / (length * unit)) for length in _JOINT_LENGTHS}
        best = -np.inf
        for own_length in _OWN_LENGTHS:
            tables = self._tables(own_length)
            own = _looked_up(tables, places)
            for length, share, noise in itertools.product(_JOINT_LENGTHS, _OWN_SHARES, _NOISES):
                kernel = share * own + (1.0 - share) * joint[length]
                factor = np.linalg.cholesky(kernel + noise * np.eye(len(places)))
                for trust in _TRUST:
                    rest = observed - trust * additive
                    centre, spread = float(rest.mean()), float(rest.std()) + 1e-6
                    whitened = solve_triangular(factor, (rest - centre) / spread, lower=True)
                    likelihood = -0.5 * float(whitened @ whitened) - len(places) * np.log(spread)
                    likelihood -= float(np.log(np.diag(factor)).sum())
                    if likelihood > best:
                        best = likelihood
                        self._own = tables
                        self._shape = share, length * unit
                        self._scale = trust, centre, spread
                        fitted = factor, whitened
        factor, whitened = fitted
        self._inverse = solve_triangular(factor, np.eye(len(places)), lower=True)
        self._weights = self._inverse.T @ whitened

    def predict(self, places: Widths) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the logarithm of losses, shape ``(M,)`` each.

        Args:
            places: Levels as :meth:`positions` gives them, shape ``(M, D)``.
        """
        share, length = self._shape
        trust, centre, spread = self._scale
        joint = _matern(_distances(self._kept(places), self._known) / length)
        kernel = share * _looked_up(self._own, places) + (1.0 - share) * joint
        variance = 1.0 - ((kernel @ self._inverse.T) ** 2).sum(axis=1)
        mean = trust * self._additive(places) + centre + spread * (kernel @ self._weights)
        return mean, spread * np.sqrt(np.maximum(variance, 1e-9))

    def _additive(self, places: Widths) -> Floats:
        columns = [table[places[:, i]] for i, table in enumerate(self._losses)]
        return np.log(np.sum(columns, axis=0))

    def _kept(self, places: Widths) -> Floats:
        columns = [keep[places[:, i]] for i, keep in enumerate(self._keep)]
        return np.stack(columns, axis=1)

    def _tables(self, length: float) -> list[Floats]:
        """Return the kernel between each dimension's levels and the records', ``(levels, N)``."""
        return [
            _matern(np.abs(keep[:, None] - self._known[None, :, i]) / length)
            for i, keep in enumerate(self._keep)
        ]


def _looked_up(tables: list[Floats], places: Widths) -> Floats:
    """Return the mean over dimensions of a tabulated kernel, shape ``(M, N)``."""
    total = np.zeros((len(places), tables[0].shape[1]))
    for dimension, table in enumerate(tables):
        total += table[places[:, dimension]]
    return total / len(tables)


def _distances(first: Floats, second: Floats) -> Floats:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2.0 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0))


def _matern(distances: Floats) -> Floats:
    """Return the Matérn 5/2 kernel of distances in units of the length scale."""
    scaled = np.sqrt(5.0) * distances
    return (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
