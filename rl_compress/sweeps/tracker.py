"""Follows a sweep from within Tune: notes trials that begin, and rows of those that end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from rl_compress.errors import CorruptFileError, RLCompressError
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.sweeps.trial import save_row, stopped_row, trial_id

_BEGUN_FILE = "begun.jsonl"


class Tracker(Callback):
    """Runs in the driver; its rows are in the order in which trials ended."""

    def __init__(self, sweep: Path, trials: Path, total: int, monitor: Monitor) -> None:
        """Read which trials were begun, if the sweep is resumed.

        Args:
            sweep: The sweep's directory.
            trials: Folder of the trials' runs.
            total: Number of trials.
            monitor: Hears of trials that end.

        Raises:
            CorruptFileError: The list of trials cannot be read.
        """
        self.rows: dict[str, dict[str, Any]] = {}
        self._file = sweep / _BEGUN_FILE
        self._trials, self._total, self._monitor = trials, total, monitor
        self._ended = 0
        self._started: dict[str, float] = {}
        self._begun = self._read()
        monitor.step(0, total)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the monitor: Tune keeps a copy of its callbacks on disk, but calls these."""
        return {**vars(self), "_monitor": SilentMonitor()}

    @property
    def begun(self) -> list[dict[str, Any]]:
        """Return the values of all trials that began, in that order."""
        return list(self._begun.values())

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note the trial's values, so that a resumed sweep begins with them."""
        name = trial_id(trial.config)
        self._started.setdefault(trial.trial_id, time.perf_counter())
        if name not in self._begun:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial.config) + "\n")
            self._begun[name] = dict(trial.config)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Keep the trial's row; a trial that did not return one was stopped."""
        directory = self._trials / trial_id(trial.config)
        row = (trial.last_result or {}).get("row")
        if row is None:
            seconds = time.perf_counter() - self._started[trial.trial_id]
            try:
                row = stopped_row(trial.config, directory, seconds)
                save_row(directory, row)
            except RLCompressError as error:
                row = _failed(trial, str(error))
        self._end(row)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Keep the error of a trial whose process failed too often."""
        lines = (trial.get_error() and str(trial.get_error()).split()) or ["it", "was", "lost"]
        self._end(_failed(trial, " ".join(lines)[-500:]))

    def _end(self, row: dict[str, Any]) -> None:
        self.rows[row["trial"]] = row
        self._ended += 1
        self._monitor.step(self._ended, self._total)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._file.exists():
            return {}
        # The last line may be cut off, if the sweep was killed.
        lines = self._file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        try:
            found = [json.loads(line) for line in lines]
            return {trial_id(values): values for values in found}
        except (ValueError, TypeError) as error:
            raise CorruptFileError(
                f"{self._file}: not a readable list of trials ({error}); remove it and resume, "
                f"which draws trials anew"
            ) from None


def _failed(trial: Trial, error: str) -> dict[str, Any]:
    name = trial_id(trial.config)
    return {"trial": name, **trial.config, "status": "failed", "error": " ".join(error.split())}
