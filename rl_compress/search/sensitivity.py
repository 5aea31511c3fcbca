"""Sensitivity curves: what pruning one group alone, at several ratios, does to the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.errors import CorruptFileError, EvaluationError
from rl_compress.policy.search_space import SearchSpace, Widths


@dataclass(frozen=True, slots=True)
class SensitivityCurves:
    """Scores of variants in which a single group is pruned."""

    groups: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    """For each group the measured widths, decreasing, the uncompressed width first."""
    scores: tuple[tuple[float, ...], ...]
    """For each group the scores at ``widths``; the first is the uncompressed target's."""

    @property
    def original_score(self) -> float:
        """Score of the uncompressed target."""
        return self.scores[0][0]

    def drops(self, group: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return a group's widths, increasing, and the loss of score at each, never negative.

        A narrower group is taken to lose at least as much as a wider one: where a measurement
        says otherwise it is noise that a search would exploit.
        """
        loss = self.original_score - np.array(self.scores[group])
        drop = np.maximum.accumulate(np.maximum(loss, 0.0))
        return np.array(self.widths[group], dtype=np.float64)[::-1], drop[::-1]

    def drop_at(self, group: int, width: float) -> float:
        """Return a group's loss of score at any width, linear between the measured ones."""
        widths, drops = self.drops(group)
        return float(np.interp(width, widths, drops))

    def points(self) -> dict[str, list[tuple[float, float]]]:
        """Return for each group its ``(pruning ratio, score)`` pairs."""
        return {
            name: [
                (1.0 - width / widths[0], score)
                for width, score in zip(widths, scores, strict=True)
            ]
            for name, widths, scores in zip(self.groups, self.widths, self.scores, strict=True)
        }

    def save(self, path: Path) -> None:
        """Write the curves as parquet, a row for each group and width."""
        rows = [
            {
                "group": name,
                "width": width,
                "pruning_ratio": 1.0 - width / widths[0],
                "score": score,
            }
            for name, widths, scores in zip(self.groups, self.widths, self.scores, strict=True)
            for width, score in zip(widths, scores, strict=True)
        ]
        unfinished = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows), unfinished)
        unfinished.rename(path)

    @classmethod
    def load(cls, path: Path) -> SensitivityCurves:
        """Read what :meth:`save` wrote.

        Raises:
            CorruptFileError: The file cannot be read.
        """
        try:
            rows = pq.read_table(path).to_pylist()
            names = tuple(dict.fromkeys(row["group"] for row in rows))
            return cls(
                names,
                tuple(tuple(row["width"] for row in rows if row["group"] == n) for n in names),
                tuple(tuple(row["score"] for row in rows if row["group"] == n) for n in names),
            )
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptFileError(
                f"{path}: not readable sensitivity curves ({error}); remove it to measure again"
            ) from None


def levels(space: SearchSpace, count: int) -> list[tuple[int, ...]]:
    """Choose for each group up to ``count`` widths below the full one, evenly spread.

    Returns:
        For each group its widths, decreasing, the uncompressed one first.
    """
    chosen = []
    for group in space.groups:
        positions = np.linspace(len(group.widths) - 1, 0, min(count, len(group.widths) - 1) + 1)
        chosen.append(tuple(dict.fromkeys(group.widths[round(p)] for p in positions)))
    return chosen


def measure_sensitivity(
    space: SearchSpace,
    score: Callable[[Widths], float | None],
    count: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> SensitivityCurves:
    """Prune one group at a time and measure.

    Args:
        space: Groups and their widths.
        score: Scores widths of shape ``(num_groups,)``; None if they cannot be evaluated, which
            counts as the worst score measured.
        count: Widths measured in each group, beside the full one.
        advance: Called after every measurement with those done and their total.

    Raises:
        EvaluationError: The uncompressed target cannot be evaluated.
    """
    plan = levels(space, count)
    total = 1 + sum(len(widths) - 1 for widths in plan)
    original = score(space.full_widths)
    if original is None:
        raise EvaluationError("the uncompressed target itself cannot be evaluated")
    done = 1
    advance(done, total)
    scores: list[list[float | None]] = []
    for index, widths in enumerate(plan):
        curve: list[float | None] = [original]
        for width in widths[1:]:
            variant = space.full_widths.copy()
            variant[index] = width
            curve.append(score(variant))
            done += 1
            advance(done, total)
        scores.append(curve)
    worst = min(value for curve in scores for value in curve if value is not None)
    filled = [tuple(worst if value is None else value for value in curve) for curve in scores]
    return SensitivityCurves(
        tuple(group.name for group in space.groups), tuple(plan), tuple(filled)
    )
