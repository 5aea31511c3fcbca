"""What trials are compared by: the volume that their variants dominate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_compress.job import Job
from rl_compress.report.sweep_files import read_trials
from rl_compress.report.sweep_front import SweepFront


def add_hypervolumes(job: Job, sweep: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Give each row the ``hypervolume`` of its trial's records, over score and costs.

    Rewards of trials with different weights cannot be compared, volumes can.

    Args:
        job: The sweep's; its objectives are what the Pareto front is over.
        sweep: The sweep's directory.
        rows: Changed in place; those without a volume stay as they are.
    """
    objectives = job.objective.objectives(job.effective_budget())
    front = SweepFront(read_trials(sweep), objectives)
    for row in rows:
        if (volume := front.volume_of(row["trial"])) is not None:
            row["hypervolume"] = volume
