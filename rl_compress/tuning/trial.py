"""One trial: an ordinary run in a directory of its own, and the row that the sweep keeps of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl_compress.errors import RLCompressError
from rl_compress.export.artifact import load_compressed
from rl_compress.export.manifest import Manifest
from rl_compress.export.verification import best_distinct
from rl_compress.job import Job, parse_job, with_values
from rl_compress.reporting.run_files import read_run
from rl_compress.results.run_directory import RunDirectory
from rl_compress.run import search
from rl_compress.targets.factory import build_model, make_target
from rl_compress.targets.regression import RegressionTarget


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


def run_trial(job: Job, values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Run a trial, or take up the one that is in the directory.

    Args:
        job: The sweep's.
        values: The trial's values of the varied keys.
        directory: Where its run goes.

    Returns:
        The trial's row: ``trial``, the values, ``status``, and its figures.
    """
    start = time.perf_counter()
    row: dict[str, Any] = {"trial": directory.name, **values}
    try:
        own = trial_job(job, values)
        run = RunDirectory(directory)
        if not (run.best / "manifest.json").exists():
            search(own, directory, resume=(directory / "job.yaml").exists())
        return {
            **row,
            "status": "done",
            "error": "",
            **_figures(own, run),
            "seconds": time.perf_counter() - start,
        }
    except RLCompressError as error:
        return {**row, "status": "failed", "error": " ".join(str(error).split())}


def _figures(job: Job, run: RunDirectory) -> dict[str, Any]:
    """Return what a finished run found, and delivered."""
    read = read_run(run.path)
    (best,) = best_distinct(list(filter(read.may_win, read.evaluations)), 1)
    manifest = Manifest.load(run.best / "manifest.json")
    figures: dict[str, Any] = {"best_score": best.score, "best_reward": best.reward}
    for cost, change in manifest.costs.items():
        figures[cost] = change.delivered
        figures[f"{cost}_share"] = change.delivered / max(change.original, 1)
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
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    return torch.nonzero(first.weight.detach().abs().sum(dim=0)).flatten().tolist()
