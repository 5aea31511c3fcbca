"""One search on a prepared subject, by the code that users run."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.measurement import Measurement, RunIdentity
from rl_compress.job import Job
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.session import Session

from .subjects import Prepared


class _Session(Session):
    """A search whose driver asks the evaluator that all searches on the subject share."""

    shared: Evaluator

    def evaluator(self) -> Evaluator:
        return self.shared


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search did."""

    records: list[EvaluationRecord]
    """In the order of their ids."""
    seconds: float
    """Elapsed, with whatever was answered from the file of measured variants."""
    evaluation_s: float
    """Sum of what the evaluations take when they are measured."""
    curve_evaluations: int
    """Made for the sensitivity curves, on top; 0 where none are used."""
    reason: str | None
    """Why it ended before its evaluations were used up."""

    def best_at(self, evaluations: int) -> float:
        """Return the best score within the first evaluations; the last best, if it ended early."""
        return max(record.score for record in self.records[:evaluations])


def search(prepared: Prepared, job: Job) -> Searched:
    """Run a job's search, in a directory of its own that is thrown away."""
    evaluator, space = prepared.evaluator, prepared.problem.space
    needs = job.search.needs
    curves = prepared.curves(job.search.sensitivity_levels) if needs == "curves" else None
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "run")
        run.create(job.to_yaml())
        if curves is not None:
            curves.save(run.sensitivity)
        session = _Session(job, run)
        session.shared = cast("Evaluator", evaluator)
        session.target, session.model = prepared.session.target, prepared.session.model
        identity = RunIdentity(run=run.name, algorithm=job.search.algorithm, seed=job.search.seed)
        session.problem = dataclasses.replace(prepared.problem, identity=identity)
        start = time.perf_counter()
        session.search()
        seconds = time.perf_counter() - start
        records = EvaluationStore(run.evaluations).read()
    for record in records:
        if record.worker > 0:
            levels = space.levels_of(record.realised_policy())
            costs = prepared.problem.costs.costs(levels)
            evaluator.remember(levels, Measurement(record.score, costs, record.wall_s))
    return Searched(
        records=records,
        seconds=seconds,
        evaluation_s=float(np.sum([record.wall_s for record in records])),
        curve_evaluations=0 if curves is None else curves.evaluations,
        reason=session.stopped_early,
    )
