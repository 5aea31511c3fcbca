"""What trials are compared by: the volume that their variants dominate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_compress.job import Job
from rl_compress.reporting.run_files import RunFiles, read_run
from rl_compress.results.pareto import front_hypervolume


def add_hypervolumes(job: Job, trials: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Give each row the ``hypervolume`` of its trial's records, over score and costs.

    Rewards of trials with different weights cannot be compared, volumes can: the reference point is
    the same for all, the costs of the uncompressed target and the lowest score that any trial
    measured. They are fractions of what would be dominated by the highest score of all at no cost.
    A row without records, or without the original of a cost, gets none.

    Args:
        job: The sweep's; its objectives are what the Pareto front is over.
        trials: Folder of the trials' runs.
        rows: Changed in place.
    """
    names = job.objective.objectives(job.effective_budget())
    runs: dict[str, RunFiles] = {}
    for row in rows:
        if (trials / row["trial"] / "job.yaml").exists():
            run = read_run(trials / row["trial"])
            original = (run.space or {}).get("costs", {})
            if run.evaluations and all(name in original for name in names if name != "score"):
                runs[row["trial"]] = run
    scores = [r.score for run in runs.values() for r in run.evaluations if r.scored_in_full]
    if not scores or max(scores) <= min(scores):
        return
    scale = max(scores) - min(scores) if "score" in names else 1.0
    for row in rows:
        if (found := runs.get(row["trial"])) is not None:
            assert found.space is not None
            row["hypervolume"] = (
                front_hypervolume(
                    found.evaluations,
                    names,
                    lowest_score=min(scores),
                    original_costs=found.space["costs"],
                )
                / scale
            )
