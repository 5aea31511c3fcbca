"""What the trials of a sweep found together: one Pareto front, and the volume that it dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rl_compress.report.run_files import RunFiles
from rl_compress.runs.pareto import SCORE, front_hypervolume, pareto_front
from rl_compress.runs.record import EvaluationRecord

_MOST_STEPS = 200
"""Points of the course of the hypervolume."""


class SweepFront:
    """Compares trials by what does not depend on the weights of their rewards.

    The reference point is the same for all trials: the costs of the uncompressed target, and the
    lowest score that any trial measured. Volumes are fractions of what would be dominated by the
    highest score of all at no cost. Left out are trials without records, or without the original of
    a cost; of no trial there is a volume where all scores are the same.
    """

    def __init__(self, runs: Mapping[str, RunFiles], objectives: Sequence[str]) -> None:
        """Gather the trials' records.

        Args:
            runs: The trials' runs by name.
            objectives: ``score`` and names of costs.
        """
        self.objectives = list(objectives)
        costs = [name for name in objectives if name != SCORE]
        self._records = {
            trial: run.evaluations
            for trial, run in runs.items()
            if run.evaluations and all(name in _original(run) for name in costs)
        }
        self._originals = {trial: _original(runs[trial]) for trial in self._records}
        scores = [record.score for record in self.records()]
        self._lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
        self._range = highest - self._lowest

    def volume_of(self, trial: str) -> float | None:
        """Return the share that a trial's own records dominate."""
        if trial not in self._records:
            return None
        return self._volume(self._records[trial], trial)

    def records(self) -> list[EvaluationRecord]:
        """Return what all trials measured in full, in the order of time."""
        records = [record for one in self._records.values() for record in one]
        return _by_time([record for record in records if record.scored_in_full])

    def front(self) -> list[EvaluationRecord]:
        """Return the records that no other of any trial dominates, in the order of time."""
        # Trial by trial first: comparing each record with all others takes long for many.
        own = [pareto_front(records, self.objectives) for records in self._records.values()]
        return pareto_front(_by_time([r for front in own for r in front]), self.objectives)

    def course(self) -> list[tuple[int, float]]:
        """Return how the volume grew: variants measured by all trials, and what they dominate.

        Records that another trial of the sweep had measured add nothing, and are left out.
        """
        measured = [record for record in self.records() if not record.cached]
        step = -(-len(measured) // _MOST_STEPS) or 1
        front: list[EvaluationRecord] = []
        course = []
        for end in range(step, len(measured) + step, step):
            front = pareto_front([*front, *measured[end - step : end]], self.objectives)
            volume = self._volume(front, next(iter(self._records)))
            if volume is not None:
                course.append((min(end, len(measured)), volume))
        return course

    def _volume(self, records: Sequence[EvaluationRecord], trial: str) -> float | None:
        if self._range <= 0.0:
            return None
        volume = front_hypervolume(
            records,
            self.objectives,
            lowest_score=self._lowest,
            original_costs=self._originals[trial],
        )
        return volume / (self._range if SCORE in self.objectives else 1.0)


def _original(run: RunFiles) -> Mapping[str, float]:
    return (run.space or {}).get("costs", {})


def _by_time(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    return sorted(records, key=lambda record: record.time)
