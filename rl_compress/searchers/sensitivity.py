"""Sensitivity curves: what compressing one dimension of the space alone does to the score.

The curves cost evaluations that a search without them has for itself, so few levels are measured
and they are chosen one by one, where the curves are least known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.errors import CorruptFileError, EvaluationError
from rl_compress.space.search_space import PRUNING, Levels, SearchSpace

Drops = npt.NDArray[np.float64]

_FLOOR = 1e-3
"""Loss of score, as a fraction of the largest measured, below which differences hardly matter."""

_RESOLVED = 0.1
"""Where the logarithms of two neighbours' losses are this close, nothing is measured between."""


@dataclass(frozen=True, slots=True)
class SensitivityCurves:
    """Scores of variants in which a single dimension is compressed."""

    groups: tuple[str, ...]
    """For each dimension the name of its group."""
    amounts: tuple[tuple[int, ...], ...]
    """For each dimension the units or bits measured, decreasing, the uncompressed ones first."""
    scores: tuple[tuple[float, ...], ...]
    """For each dimension the scores at ``amounts``; the first is the uncompressed target's."""
    decides: tuple[str, ...] = ()
    """For each dimension what it decides of its group; by default all decide pruning ratios."""

    def __post_init__(self) -> None:
        if not self.decides:
            object.__setattr__(self, "decides", (PRUNING,) * len(self.groups))

    @property
    def original_score(self) -> float:
        """Score of the uncompressed target."""
        return self.scores[0][0]

    @property
    def evaluations(self) -> int:
        """Evaluations that the curves are made of, the uncompressed target's included."""
        return 1 + sum(len(amounts) - 1 for amounts in self.amounts)

    def drops(self, index: int) -> tuple[npt.NDArray[np.float64], Drops]:
        """Return a dimension's measured amounts, increasing, and the losses of score there.

        Losses are never negative, and a lower amount is taken to lose at least as much as a higher
        one: where a measurement says otherwise it is noise that a search would exploit.
        """
        loss = self.original_score - np.array(self.scores[index])
        drop = np.maximum.accumulate(np.maximum(loss, 0.0))
        return np.array(self.amounts[index], dtype=np.float64)[::-1], drop[::-1]

    def loss_table(self, index: int, amounts: Sequence[float] | npt.NDArray[np.generic]) -> Drops:
        """Return a dimension's loss of score at any amounts, in their order.

        Between measured amounts ``log(loss + floor)`` is linear, since losses span decades; the
        floor is a thousandth of the largest loss of all curves.
        """
        measured, drops = self.drops(index)
        floor = _FLOOR * max(float(self.drops(i)[1][0]) for i in range(len(self.groups)))
        if floor == 0.0:
            return np.zeros(len(amounts))
        # log1p and expm1, so that no loss stays exactly none.
        logarithms = np.interp(np.asarray(amounts), measured, np.log1p(drops / floor))
        return floor * np.expm1(logarithms)

    def loss_tables(self, space: SearchSpace) -> list[Drops]:
        """Return the loss of score at each level of each dimension of a space."""
        return [self.loss_table(i, own.amounts) for i, own in enumerate(space.dimensions)]

    def drop_at(self, index: int, amount: float) -> float:
        """Return a dimension's loss of score at any amount; see :meth:`loss_table`."""
        return float(self.loss_table(index, [amount])[0])

    def points(self, decides: str = PRUNING) -> dict[str, list[tuple[float, float]]]:
        """Return the measured points of all dimensions of a kind, by the name of their group.

        Args:
            decides: The kind.

        Returns:
            Pairs of pruning ratio and score, or of bits and score.
        """
        return {
            name: [
                (1.0 - amount / amounts[0] if kind == PRUNING else float(amount), score)
                for amount, score in zip(amounts, scores, strict=True)
            ]
            for name, kind, amounts, scores in zip(
                self.groups, self.decides, self.amounts, self.scores, strict=True
            )
            if kind == decides
        }

    def save(self, path: Path) -> None:
        """Write the curves as parquet, a row for each dimension and amount."""
        rows = [
            {
                "group": name,
                "decides": kind,
                "width": amount,
                PRUNING: 1.0 - amount / amounts[0] if kind == PRUNING else None,
                "score": score,
            }
            for name, kind, amounts, scores in zip(
                self.groups, self.decides, self.amounts, self.scores, strict=True
            )
            for amount, score in zip(amounts, scores, strict=True)
        ]
        unfinished = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows), unfinished)
        unfinished.rename(path)

    @classmethod
    def load(cls, path: Path) -> SensitivityCurves:
        """Read what :meth:`save` wrote; files without ``decides`` hold pruning ratios.

        Raises:
            CorruptFileError: The file cannot be read.
        """
        try:
            rows = pq.read_table(path).to_pylist()
            curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
            for row in rows:
                key = (row["group"], row.get("decides", PRUNING))
                curves.setdefault(key, []).append((row["width"], row["score"]))
            return cls(
                tuple(name for name, _ in curves),
                tuple(tuple(amount for amount, _ in curve) for curve in curves.values()),
                tuple(tuple(score for _, score in curve) for curve in curves.values()),
                tuple(kind for _, kind in curves),
            )
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptFileError(
                f"{path}: not readable sensitivity curves ({error}); remove it to measure again"
            ) from None


def allowance(space: SearchSpace, count: int) -> int:
    """Return how many evaluations the curves of a space may take, the uncompressed one included.

    Each dimension brings ``count``, one less if it counts bits (there are few levels, and losses
    fall off evenly), but no more than it has levels below the full one; the sum is shared by all.
    """
    return 1 + sum(
        min(len(own.amounts) - 1, count if own.prunes else max(count - 1, 1))
        for own in space.dimensions
    )


def measure_sensitivity(
    space: SearchSpace,
    score: Callable[[Levels], float | None],
    count: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> SensitivityCurves:
    """Lower one dimension at a time and measure.

    First comes the lowest level of every dimension. Then, wherever on any curve two neighbouring
    measurements differ most, the level in the middle is measured: the difference bounds what
    interpolation can be wrong by. Differences are of ``log(loss + floor)``, as in
    :meth:`SensitivityCurves.loss_table`.

    Args:
        space: Dimensions and their levels.
        score: Scores levels of shape ``(D,)``; None if they cannot be evaluated, which counts as
            the worst score measured.
        count: Levels measured in each dimension on average, beside the full one; see
            :func:`allowance`.
        advance: Called after every measurement with those done and the most that may follow.

    Raises:
        EvaluationError: The uncompressed target cannot be evaluated.
    """
    total = allowance(space, count)
    full = space.full
    original = score(full)
    if original is None:
        raise EvaluationError("the uncompressed target itself cannot be evaluated")
    # By level.
    measured: list[dict[int, float | None]] = [{level: original} for level in full.tolist()]
    done = 1
    advance(done, total)

    def measure(index: int, level: int) -> None:
        nonlocal done
        variant = full.copy()
        variant[index] = level
        measured[index][level] = score(variant)
        done += 1
        advance(done, total)

    for index, own in enumerate(space.dimensions):
        if own.is_open:
            measure(index, 0)
    while done < total and (gap := _widest_gap(_filled(measured), original)) is not None:
        measure(*gap)
    if done < total:
        advance(done, done)
    curves = [sorted(curve.items(), reverse=True) for curve in _filled(measured)]
    return SensitivityCurves(
        tuple(own.site for own in space.dimensions),
        tuple(
            tuple(own.amounts[level] for level, _ in curve)
            for own, curve in zip(space.dimensions, curves, strict=True)
        ),
        tuple(tuple(value for _, value in curve) for curve in curves),
        tuple(own.decides for own in space.dimensions),
    )


def _filled(measured: Sequence[dict[int, float | None]]) -> list[dict[int, float]]:
    """Put the worst score in the place of those that could not be measured."""
    worst = min(value for curve in measured for value in curve.values() if value is not None)
    return [
        {level: worst if value is None else value for level, value in curve.items()}
        for curve in measured
    ]


def _widest_gap(curves: Sequence[dict[int, float]], original: float) -> tuple[int, int] | None:
    """Return the dimension and the level to measure next, or None if all is known."""
    largest = max(original - value for curve in curves for value in curve.values())
    if largest <= 0.0:
        return None
    best, gap = _RESOLVED, None
    for index, curve in enumerate(curves):
        logarithms = {
            level: np.log1p(max(original - value, 0.0) / (_FLOOR * largest))
            for level, value in curve.items()
        }
        for low, high in pairwise(sorted(curve)):
            doubt = abs(float(logarithms[low] - logarithms[high]))
            if high - low > 1 and doubt > best:
                best, gap = doubt, (index, (low + high) // 2)
    return gap
