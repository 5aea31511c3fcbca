"""The sweep: Ray Tune runs trials side by side, and their rows become one table."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune as ray_tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from rl_compress.errors import ConfigError, EvaluationError, RunDirectoryError
from rl_compress.job import Job
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.reporting.sweep_report import SWEEP_FILE, build_sweep_report
from rl_compress.results.environment import describe_environment
from rl_compress.results.run_directory import RunDirectory
from rl_compress.run import prepare_job
from rl_compress.search.rllib.cluster import connected
from rl_compress.search.tune_config import Domain
from rl_compress.tuning.trial import run_trial, trial_id, trial_job

TRIALS = "trials"

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep produced."""

    directory: Path
    rows: list[dict[str, Any]]
    """A row for each trial, as in ``sweep.parquet``."""
    best: dict[str, Any]
    """The row with the highest score on the search split; rewards differ with their weights."""


def tune(
    job: Job,
    output: str | Path,
    *,
    resume: bool = False,
    address: str | None = None,
    monitor: Monitor | None = None,
) -> SweepResult:
    """Run a job many times, with the keys of its `tune` section varied, on Ray Tune.

    Trials are ordinary runs in ``trials/``, named after their values; so a sweep that is resumed
    runs again only what is not finished, and continues what was begun.

    Args:
        job: With a `tune` section.
        output: The sweep's directory.
        resume: Continue the sweep that is in the directory.
        address: A Ray cluster; by default a local one is started.
        monitor: Hears of progress.

    Raises:
        ConfigError: The section is empty, or a combination of values is no valid job.
        EvaluationError: No trial succeeded.
    """
    monitor = monitor or SilentMonitor()
    check_space(job)
    sweep = RunDirectory(Path(output))
    sweep.check(job.to_yaml(), resume=resume)
    prepare_job(job, sweep.pretraining, monitor, before_training=lambda: None)
    (sweep.path / TRIALS).mkdir(parents=True, exist_ok=True)
    sweep.write_text("job.yaml", job.to_yaml())
    sweep.write_json("environment.json", describe_environment())
    monitor.phase("sweep")
    runners = job.search.num_env_runners if job.search.learns else 0
    with connected(address, runners + 1, job.search.num_cpus_per_env_runner):
        rows = _run(job, sweep.path / TRIALS, monitor)
    pq.write_table(_table(rows), sweep.path / f"{SWEEP_FILE}.tmp")
    (sweep.path / f"{SWEEP_FILE}.tmp").replace(sweep.path / SWEEP_FILE)
    monitor.phase("report")
    build_sweep_report(sweep.path)
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise EvaluationError(f"{sweep.path}: no trial succeeded ({rows[0]['error']})")
    return SweepResult(sweep.path, rows, max(done, key=lambda row: row["best_score"]))


def check_space(job: Job) -> None:
    """Make sure that every combination of the values that are listed, or bound, is a valid job.

    Raises:
        ConfigError: One is not; the message names the key.
    """
    if not job.tune.space:
        raise ConfigError(
            "tune.space: name the keys to vary, as contribution.alpha: {grid: [0.3, 0.9]}"
        )
    examples = {key: domain.examples() for key, domain in job.tune.space.items()}
    # Each key's values with the others at their first: keys are independent but for conflicts
    # between sections, which the trials themselves report.
    first = {key: values[0] for key, values in examples.items()}
    for key, values in examples.items():
        for value in values:
            trial_job(job, {**first, key: value})


def _run(job: Job, directory: Path, monitor: Monitor) -> list[dict[str, Any]]:
    """Run all trials; returns their rows, in a fixed order."""
    bundles = [{"CPU": 1.0}]
    if job.search.learns:
        runner = {"CPU": job.search.num_cpus_per_env_runner}
        if job.search.num_gpus_per_env_runner:
            runner["GPU"] = job.search.num_gpus_per_env_runner
        bundles += [runner] * job.search.num_env_runners
    _check_room(bundles)
    total = job.tune.trials * _grid_size(job.tune.space)
    trainable = ray_tune.with_resources(
        functools.partial(_trainable, job=job, directory=str(directory.resolve())),
        ray_tune.PlacementGroupFactory(bundles),
    )
    # Tune's own tables would tear the progress bar apart.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    tuner = ray_tune.Tuner(
        trainable,
        param_space={key: _domain(domain) for key, domain in job.tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            num_samples=job.tune.trials,
            max_concurrent_trials=job.tune.max_concurrent,
            search_alg=BasicVariantGenerator(random_state=job.search.seed),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str((directory.parent / "ray").resolve()),
            verbose=0,
        ),
    )
    with _watched(directory, total, monitor):
        results = tuner.fit()
    rows = []
    for result in results:
        values = {key: result.config[key] for key in job.tune.space} if result.config else {}
        row = (result.metrics or {}).get("row")
        if row is None:
            error = " ".join(str(result.error).split()) if result.error else "it was lost"
            row = {"trial": trial_id(values), **values, "status": "failed", "error": error[-500:]}
        rows.append(row)
    return sorted(rows, key=lambda row: [str(row[key]) for key in job.tune.space])


def _trainable(config: Mapping[str, Any], *, job: Job, directory: str) -> None:
    """Be a Tune trial; runs in a process of its own."""
    values = dict(config)
    row = run_trial(job, values, Path(directory) / trial_id(values))
    ray_tune.report({"row": row, "best_score": row.get("best_score", float("-inf"))})


@contextlib.contextmanager
def _watched(directory: Path, total: int, monitor: Monitor) -> Iterator[None]:
    """Tell the monitor of finished trials, from a thread: Tune blocks until all are done."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_S):
            monitor.step(len(list(directory.glob("*/best/manifest.json"))), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _domain(domain: Domain) -> Any:
    if domain.grid is not None:
        return ray_tune.grid_search(domain.grid)
    if domain.choice is not None:
        return ray_tune.choice(domain.choice)
    if domain.uniform is not None:
        return ray_tune.uniform(*domain.uniform)
    if domain.loguniform is not None:
        return ray_tune.loguniform(*domain.loguniform)
    assert domain.randint is not None
    return ray_tune.randint(*domain.randint)


def _grid_size(space: Mapping[str, Domain]) -> int:
    grids = [domain.grid for domain in space.values() if domain.grid is not None]
    return len(list(itertools.product(*grids)))


def _check_room(bundles: list[dict[str, float]]) -> None:
    """Make sure that the cluster can ever hold one trial.

    Raises:
        ConfigError: It cannot.
    """
    available = ray.cluster_resources()
    for resource in ("CPU", "GPU"):
        needed = sum(bundle.get(resource, 0.0) for bundle in bundles)
        if needed > available.get(resource, 0.0):
            raise ConfigError(
                f"search.num_env_runners: a trial needs {needed:g} {resource}s for its driver and "
                f"runners, but the cluster has {available.get(resource, 0.0):g}; use fewer runners"
            )


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows with different keys as one table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RunDirectoryError(
            f"{SWEEP_FILE}: values of one key differ in type ({error})"
        ) from None
