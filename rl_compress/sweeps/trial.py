"""One trial: an ordinary run in a directory of its own, and the row that the sweep keeps of it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl_compress.errors import CorruptFileError, DirectoryInUseError, RLCompressError
from rl_compress.evaluation.ledger import Progress
from rl_compress.evaluation.shared import SharedMeasurements
from rl_compress.execution import search
from rl_compress.export.artifact import load_compressed
from rl_compress.export.manifest import Manifest
from rl_compress.export.verification import best_distinct
from rl_compress.job import Job, parse_job, with_values
from rl_compress.model.layers import is_weighted
from rl_compress.monitor import SilentMonitor
from rl_compress.report.run_files import RunFiles, read_run
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.targets.factory import build_model, make_target
from rl_compress.targets.regression import RegressionTarget

_ROW_FILE = "row.json"
_REPORTS = 20
_POLL_S = 0.5


def trial_id(values: Mapping[str, Any]) -> str:
    """Return the name of a trial's directory: equal values, and only they, share it."""
    text = json.dumps(dict(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def trial_job(job: Job, values: Mapping[str, Any]) -> Job:
    """Return a trial's own job.

    Raises:
        ConfigError: A key is unknown or a value wrong; the message names it.
    """
    data = with_values(job.model_dump(mode="json", exclude={"tune"}), values)
    return parse_job(data, "tune.space")


class _Reporter(SilentMonitor):
    """Tells how far a trial's search has come, twenty times in all."""

    def __init__(self, report: Callable[[int, EvaluationRecord], None]) -> None:
        self._report = report
        self._next = 1

    def searched(self, progress: Progress) -> None:
        """Report the evaluations so far, and the best variant within the budget."""
        # The end is reported when the variant is delivered, or a scheduler would stop it before.
        if progress.best is None or not self._next <= progress.done < progress.limit:
            return
        self._next = progress.done + math.ceil(progress.limit / _REPORTS)
        self._report(progress.done, progress.best)


def run_trial(
    job: Job,
    values: Mapping[str, Any],
    directory: Path,
    *,
    measurements: SharedMeasurements | None = None,
    report: Callable[[int, EvaluationRecord], None] = lambda _evaluations, _best: None,
) -> dict[str, Any]:
    """Run a trial, or take up the one that is in the directory.

    Args:
        job: The sweep's.
        values: The trial's values of the varied keys.
        directory: Where its run goes.
        measurements: What other trials of the sweep measured.
        report: Hears now and then of the evaluations so far, and of the best variant within the
            budget.

    Returns:
        The trial's row: ``trial``, the values, ``status``, ``error``, and its figures.
    """
    while True:
        if (row := load_row(directory)) is not None:
            return row
        start = time.perf_counter()
        row = {"trial": directory.name, **values}
        try:
            own = trial_job(job, values)
            search(
                own,
                directory,
                resume=(directory / "job.yaml").exists(),
                monitor=_Reporter(report),
                measurements=measurements,
            )
            row |= {"status": "done", "error": "", **_figures(own, RunDirectory(directory))}
        except DirectoryInUseError:
            # The same values were drawn twice, or an interrupted sweep's trial is about to end.
            time.sleep(_POLL_S)
            continue
        except RLCompressError as error:
            return {**row, "status": "failed", "error": " ".join(str(error).split())}
        row["seconds"] = time.perf_counter() - start
        save_row(directory, row)
        return row


def stopped_row(values: Mapping[str, Any], directory: Path, seconds: float) -> dict[str, Any]:
    """Return the row of a trial that a scheduler stopped: nothing was delivered.

    Args:
        values: The trial's values of the varied keys.
        directory: Of its run.
        seconds: How long it ran.
    """
    return {
        "trial": directory.name,
        **values,
        "status": "stopped",
        "error": "",
        **_search_figures(read_run(directory)),
        "seconds": seconds,
    }


def load_row(directory: Path) -> dict[str, Any] | None:
    """Return the row of a trial that is done, or was stopped; None of any other."""
    path = directory / _ROW_FILE
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptFileError(
            f"{path}: not readable JSON ({error}); remove it and resume the sweep"
        ) from None


def save_row(directory: Path, row: Mapping[str, Any]) -> None:
    """Keep a trial's row, by which a resumed sweep knows it."""
    RunDirectory(directory).write_json(_ROW_FILE, row)


def _search_figures(read: RunFiles) -> dict[str, Any]:
    """Return what a run's search found so far; the best variant is the one with most reward."""
    best = best_distinct(list(filter(read.may_win, read.evaluations)), 1, read.ranking)
    figures: dict[str, Any] = {}
    if best:
        figures = {"best_score": best[0].score, "best_reward": best[0].reward, **best[0].costs}
    return {
        **figures,
        "evaluations": len(read.evaluations),
        "cache_hits": sum(record.cached for record in read.evaluations),
    }


def _figures(job: Job, run: RunDirectory) -> dict[str, Any]:
    """Return what a finished run found, and delivered."""
    figures = _search_figures(read_run(run.path))
    manifest = Manifest.load(run.best / "manifest.json")
    for cost, change in manifest.costs.items():
        figures[cost] = change.delivered
        figures[f"{cost}_share"] = change.delivered / max(change.original, 1)
    if manifest.scores is not None:
        figures["delivered_score"] = manifest.scores.search.delivered
    if manifest.scores is not None and manifest.scores.test is not None:
        figures |= {
            "test_before": manifest.scores.test.original,
            "test_after": manifest.scores.test.delivered,
        }
    target = make_target(job.target)
    if isinstance(target, RegressionTarget):
        before, after = build_model(target, job.target), load_compressed(run.best)
        figures |= {
            "mse_before": target.mse(before, "test"),
            "mse_after": target.mse(after, "test"),
            "features_kept": _features_kept(after),
            "informative_features": list(target.informative_features),
        }
    return figures


def _features_kept(model: nn.Module) -> list[int]:
    """Return the inputs that reach the first layer of a model."""
    first = next(filter(is_weighted, model.modules()))
    return torch.nonzero(first.weight.detach().abs().sum(dim=0)).flatten().tolist()
