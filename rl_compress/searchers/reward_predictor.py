"""A predictor of the loss of variants that were not measured, learned from those that were.

A Gaussian process on the logarithm of the loss. Its mean is what the sensitivity curves add up to;
its kernel is a sum over dimensions, for what the curves say wrongly of each, and a joint part, for
what dimensions do to each other (Duvenaud et al., "Additive Gaussian Processes", NeurIPS 2011). A
hundred records of some tens of dimensions are enough for it, where a network would need thousands.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.search_space import Levels, SearchSpace

Floats = npt.NDArray[np.float64]

_TRUST = (0.5, 1.0)
"""Exponents of the additive loss that are tried: curves are steeper than what they add up to."""
_OWN_LENGTHS = (0.15, 0.4, 1.0)
"""Length scales along one dimension, as fractions of its largest amount."""
_JOINT_LENGTHS = (0.7, 1.5)
"""Length scales over all dimensions, in units of the records' median distance."""
_OWN_SHARES = (0.3, 0.7)
"""Share of the variance that the sum over dimensions explains."""
_NOISES = (0.01, 0.1)

_GROWN = 1.1
"""Growth of the records after which length scales and shares are looked for again."""

_SMALLEST_LOSS = 0.02
"""Losses below this share of their median are taken as this: their logarithms are mostly noise."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """How variants are alike, and how far the curves are trusted."""

    own_length: float
    joint_length: float
    """In units of the median distance."""
    own_share: float
    noise: float
    trust: float

    def kernel(self, own: Floats, joint: Floats) -> Floats:
        """Return the kernel, of the parts with these lengths."""
        return self.own_share * own + (1.0 - self.own_share) * joint


@dataclass(frozen=True, slots=True)
class Fit:
    """What takes time to learn from records; plain data, so that one process does it for all."""

    levels: Levels
    """Of the records, shape ``(N, D)``."""
    kernel: Kernel
    length: float
    """Length scale over all dimensions."""
    inverse: Floats
    """Of the lower Cholesky factor of the records' kernel, shape ``(N, N)``."""


class RewardPredictor:
    """Predicts the logarithm of a variant's loss of reward, with its uncertainty."""

    def __init__(self, space: SearchSpace, curves: SensitivityCurves) -> None:
        """Tabulate what can be known before there are records.

        Args:
            space: The dimensions.
            curves: What each dimension's compression costs alone.
        """
        self._space = space
        # Of all levels of all dimensions, one dimension after the other.
        self._keep = np.concatenate([np.array(d.amounts) / d.full for d in space.dimensions])
        self._dimensions = np.repeat(np.arange(len(space)), space.full + 1)
        losses = curves.loss_tables(space)
        smallest = 1e-6 * max(max(float(loss.max()) for loss in losses), 1e-12)
        self._losses = [np.maximum(loss, smallest) for loss in losses]
        self._chosen_from = 0
        self._taken: Fit | None = None
        self._its_table = np.zeros((0, 0))
        self.levels = np.zeros((0, len(space)), dtype=np.int64)
        """Of the records, shape ``(N, D)``."""

    def fit(self, levels: Levels, losses: Floats) -> None:
        """Learn from records.

        The most likely length scales and shares are taken. They are looked for again when there are
        a tenth more records, for the search takes most of the time.

        Args:
            levels: Shape ``(N, D)``, at least two rows.
            losses: Reward of the uncompressed target minus theirs, shape ``(N,)``.
        """
        if not self._chosen_from <= len(levels) < _GROWN * self._chosen_from:
            self._chosen = self.likeliest(levels, losses)
            self._chosen_from = len(levels)
        self.show(levels, self._chosen)
        self.aim(losses)

    def show(self, levels: Levels, kernel: Kernel) -> Fit:
        """Take in where records are, with a given kernel; what they lost is told by :meth:`aim`.

        Args:
            levels: Shape ``(N, D)``, at least two rows.
            kernel: How variants are alike.
        """
        known = self._space.kept(levels)
        length = kernel.joint_length * _unit(_distances(known, known))
        self._place(levels, kernel, length)
        factor = np.linalg.cholesky(_noisy(self._alike(levels), kernel.noise))
        self._inverse = _inverse(factor)
        return Fit(levels, kernel, length, self._inverse)

    def take(self, fit: Fit, more: Levels) -> None:
        """Take over what another process learned, and where a few more records are.

        Args:
            fit: From :meth:`show`.
            more: Their levels, shape ``(M, D)``.
        """
        self._place(
            fit.levels, fit.kernel, fit.length, None if self._taken is not fit else self._its_table
        )
        self._taken, self._its_table, self._inverse = fit, self._table, fit.inverse
        if not len(more):
            return
        across = self._alike(more)
        self._place(more, fit.kernel, fit.length)
        columns, among = self._table, _noisy(self._alike(more), fit.kernel.noise)
        # The factor of all has a block row more.
        lower = across @ fit.inverse.T
        own = _inverse(np.linalg.cholesky(among - lower @ lower.T))
        old, size = len(fit.levels), len(fit.levels) + len(more)
        self._inverse = np.zeros((size, size))
        self._inverse[:old, :old] = fit.inverse
        self._inverse[old:, :old] = -own @ (lower @ fit.inverse)
        self._inverse[old:, old:] = own
        whole = np.concatenate([fit.levels, more])
        table = np.concatenate([self._its_table, columns], axis=1)
        self._place(whole, fit.kernel, fit.length, table)

    def aim(self, losses: Floats) -> None:
        """Learn what the records lost.

        Args:
            losses: Reward of the uncompressed target minus theirs, shape ``(N,)``.
        """
        rest = _logarithms(losses) - self._kernel.trust * self._additive(self.levels)
        self._centre, self._spread = float(rest.mean()), _spread(rest)
        self._weights = self._inverse.T @ (self._inverse @ ((rest - self._centre) / self._spread))

    def _place(
        self, levels: Levels, kernel: Kernel, length: float, table: Floats | None = None
    ) -> None:
        self.levels, self._known = levels, self._space.kept(levels)
        self._kernel, self._length = kernel, length
        self._table = self._table_of(kernel.own_length) if table is None else table

    def likeliest(self, levels: Levels, losses: Floats) -> Kernel:
        """Return the kernel under which records are the most likely.

        Args:
            levels: Shape ``(N, D)``, at least two rows.
            losses: Reward of the uncompressed target minus theirs, shape ``(N,)``.
        """
        self._known = self._space.kept(levels)
        # What each trust in the curves leaves to explain.
        rests = _logarithms(losses) - np.multiply.outer(_TRUST, self._additive(levels))
        distances = _distances(self._known, self._known)
        distances = distances / _unit(distances)
        centres, spreads = rests.mean(axis=1), np.array([_spread(rest) for rest in rests])
        wanted = ((rests - centres[:, None]) / spreads[:, None]).T
        joint = {length: _matern(distances / length) for length in _JOINT_LENGTHS}
        best, found = -np.inf, None
        for own_length in _OWN_LENGTHS:
            own = self._looked_up(self._table_of(own_length), levels)
            for length, share, noise in itertools.product(_JOINT_LENGTHS, _OWN_SHARES, _NOISES):
                tried = Kernel(own_length, length, share, noise, _TRUST[0])
                factor = np.linalg.cholesky(_noisy(tried.kernel(own, joint[length]), noise))
                whitened = solve_triangular(factor, wanted, lower=True, check_finite=False)
                likelihoods = -0.5 * (whitened**2).sum(axis=0) - len(levels) * np.log(spreads)
                likelihoods -= np.log(np.diag(factor)).sum()
                which = int(np.argmax(likelihoods))
                if likelihoods[which] > best:
                    best, found = (
                        likelihoods[which],
                        dataclasses.replace(tried, trust=_TRUST[which]),
                    )
        assert found is not None, "likelihoods are numbers"
        return found

    def predict(self, levels: Levels) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the logarithm of losses, shape ``(M,)`` each.

        Args:
            levels: Shape ``(M, D)``.
        """
        kernel = self._alike(levels)
        variance = 1.0 - ((kernel @ self._inverse.T) ** 2).sum(axis=1)
        mean = self._kernel.trust * self._additive(levels) + self._centre
        mean += self._spread * (kernel @ self._weights)
        return mean, self._spread * np.sqrt(np.maximum(variance, 1e-9))

    def _alike(self, levels: Levels) -> Floats:
        """Return the kernel between variants and the records, shape ``(M, N)``."""
        joint = _matern(_distances(self._space.kept(levels), self._known) / self._length)
        return self._kernel.kernel(self._looked_up(self._table, levels), joint)

    def _additive(self, levels: Levels) -> Floats:
        columns = [table[levels[:, i]] for i, table in enumerate(self._losses)]
        return np.log(np.sum(columns, axis=0))

    def _table_of(self, length: float) -> Floats:
        """Return the kernel between levels and the records' own, ``(levels, N)``."""
        known = self._known.T[self._dimensions]
        return _matern(np.abs(self._keep[:, None] - known) / length)

    def _looked_up(self, table: Floats, levels: Levels) -> Floats:
        """Return the mean over dimensions of a tabulated kernel, shape ``(M, N)``."""
        total = np.zeros((len(levels), table.shape[1]))
        own = np.empty_like(total)
        for rows in np.ascontiguousarray(self._space.indices(levels).T):
            total += table.take(rows, axis=0, out=own, mode="clip")
        total /= levels.shape[1]
        return total


def _logarithms(losses: Floats) -> Floats:
    floor = max(_SMALLEST_LOSS * float(np.median(losses)), 1e-12)
    return np.log(np.maximum(losses, floor))


def _unit(distances: Floats) -> float:
    """Return the median distance between records."""
    between = distances[np.tri(len(distances), k=-1, dtype=bool)]
    return max(float(np.median(between)), 1e-6)


def _inverse(factor: npt.NDArray[np.floating[Any]]) -> Floats:
    identity = np.eye(len(factor))
    inverse: Floats = solve_triangular(factor, identity, lower=True, check_finite=False)
    return inverse


def _spread(rest: Floats) -> float:
    return float(rest.std()) + 1e-6


def _noisy(kernel: Floats, noise: float) -> Floats:
    kernel.flat[:: len(kernel) + 1] += noise
    return kernel


def _distances(first: Floats, second: Floats) -> Floats:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2.0 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0))


def _matern(distances: Floats) -> Floats:
    """Return the Matérn 5/2 kernel of distances in units of the length scale."""
    scaled = np.sqrt(5.0) * distances
    kernel = 1.0 + scaled
    kernel += scaled**2 / 3.0
    kernel *= np.exp(-scaled)
    return kernel
