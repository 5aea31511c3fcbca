"""What a sweep's directory holds, read for its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_compress.report.run_files import RunFiles, read_job, read_rows, read_run

SWEEP_FILE = "sweep.parquet"
TRIALS = "trials"


@dataclass(frozen=True, slots=True)
class SweepFiles:
    """The content of a sweep's directory."""

    directory: Path
    job: dict[str, Any]
    job_yaml: str
    rows: list[dict[str, Any]]
    """A row for each trial: its values of the varied keys, its status and its figures."""
    runs: dict[str, RunFiles]
    """The runs of the trials by their names, and those that a trial left to go on from another's;
    those that never began are missing."""

    @property
    def keys(self) -> list[str]:
        """The dotted keys that were varied."""
        return list(self.job["tune"]["space"])

    @property
    def done(self) -> list[dict[str, Any]]:
        """The rows of the trials that delivered something."""
        return [row for row in self.rows if row["status"] == "done"]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the trial with the highest score on the search split."""
        return max(self.done, key=lambda row: row["best_score"], default=None)


def read_sweep(directory: Path) -> SweepFiles:
    """Read a sweep's directory.

    Raises:
        CorruptFileError: A file cannot be read; the message names it.
    """
    rows = read_rows(directory / SWEEP_FILE)
    job_yaml, job = read_job(directory / "job.yaml")
    return SweepFiles(directory, job, job_yaml, rows, read_trials(directory))


def read_trials(directory: Path) -> dict[str, RunFiles]:
    """Read the runs of a sweep's trials, as far as they began."""
    return {
        path.parent.name: read_run(path.parent)
        for path in sorted((directory / TRIALS).glob("*/job.yaml"))
        if path.parent.suffix != ".tmp"
    }
