"""The sweep: Ray Tune runs trials side by side, and their rows become one table."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune as ray_tune
from torch import nn

from rl_compress.agent.rllib.cluster import connected
from rl_compress.agent.rllib.coordinator import answer
from rl_compress.agent.rllib.standby import portable_factory, try_worker
from rl_compress.errors import ConfigError, EvaluationError, RunDirectoryError
from rl_compress.evaluation.shared import SharedMeasurements
from rl_compress.job import Job, filled_in
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.rehearsal import rehearse
from rl_compress.report.sweep_files import SWEEP_FILE, TRIALS
from rl_compress.report.sweep_report import build_sweep_report
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.run_lock import run_lock
from rl_compress.runs.written import whole
from rl_compress.searchers.reachable import check_reachable
from rl_compress.session import Session
from rl_compress.sweeps.comparison import add_hypervolumes
from rl_compress.sweeps.loggers import check_loggers, logger_callbacks
from rl_compress.sweeps.population import check_population, place_of, state_of
from rl_compress.sweeps.resources import check_room, check_runners, placement_group
from rl_compress.sweeps.strategies import (
    BEST_SCORE,
    EVALUATIONS,
    check_installed,
    objectives,
    sampler,
    scheduler,
    tune_domain,
)
from rl_compress.sweeps.sweep_evaluations import start_evaluations
from rl_compress.sweeps.tracker import Tracker
from rl_compress.sweeps.trial import run_trial, trial_job
from rl_compress.targets.factory import lend_factory
from rl_compress.targets.target import Target

_MAX_FAILURES = 2
"""Times that a trial whose process dies is taken up again."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep produced."""

    directory: Path
    rows: list[dict[str, Any]]
    """A row for each trial, as in ``sweep.parquet``."""
    best: dict[str, Any]
    """The row of the trial that delivered the highest score on the search split, before
    fine-tuning; rewards cannot be compared, for they differ with their weights."""
    measured: int
    """Variants that were measured, by all trials together."""

    @property
    def cache_hits(self) -> int:
        """Evaluations that were answered with what another trial had measured."""
        return sum(row.get("cache_hits") or 0 for row in self.rows)

    @property
    def statuses(self) -> dict[str, int]:
        """Number of trials that are ``done``, ``stopped`` and ``failed``."""
        found = collections.Counter(row["status"] for row in self.rows)
        return {status: found[status] for status in ("done", "stopped", "failed")}


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
    runs again only what is not finished, and continues what was begun. What they measure is kept in
    ``evaluations/``, where they find what others measured: no variant is measured twice.

    Args:
        job: With a `tune` section.
        output: The sweep's directory.
        resume: Continue the sweep that is in the directory.
        address: A Ray cluster; by default a local one is started.
        monitor: Hears of progress.

    Raises:
        ConfigError: The section is empty, a package is missing, or a combination of values is no
            valid job.
        EvaluationError: No trial succeeded.
    """
    monitor = monitor or SilentMonitor()
    check_space(job)
    check_population(job)
    check_installed(job)
    check_loggers(job)
    check_runners(job, address)
    check_reachable(address)
    sweep = RunDirectory(Path(output))
    with run_lock(sweep.path), contextlib.ExitStack() as ray_stack:

        def join(_model: nn.Module, _target: Target) -> None:
            """Before anything is trained or measured."""
            runners = job.search.num_env_runners if job.search.learns else 0
            ray_stack.enter_context(
                connected(address, runners + 1, job.search.num_cpus_per_env_runner)
            )
            for values in _examples(job):
                check_room(job, values)
            try_worker(job.target, job.search)

        sweep.check(job.to_yaml(), resume=resume, filled_in=filled_in)
        session = Session(job, sweep, monitor=monitor)
        session.prepare(join)
        if not resume:
            rehearse(session)
        (sweep.path / TRIALS).mkdir(parents=True, exist_ok=True)
        sweep.write_text("job.yaml", job.to_yaml())
        sweep.write_json("environment.json", describe_environment())
        monitor.phase("sweep")
        rows, measured = _run(job, sweep, monitor)
        ray_stack.close()
        add_hypervolumes(job, sweep.path, rows)
        with whole(sweep.path / SWEEP_FILE) as file:
            pq.write_table(_table(rows), file)
        monitor.phase("report")
        build_sweep_report(sweep.path)
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise EvaluationError(f"{sweep.path}: no trial succeeded ({rows[0]['error']})")
    best = max(done, key=lambda row: row["best_score"])
    return SweepResult(sweep.path, rows, best, measured)


def check_space(job: Job) -> None:
    """Make sure that every combination of the values that are listed, or bound, is a valid job.

    Raises:
        ConfigError: One is not; the message names the key.
    """
    if not job.tune.space:
        raise ConfigError(
            "tune.space: name the keys to vary, as contribution.alpha: {grid: [0.3, 0.9]}"
        )
    if "objective.score" in job.tune.space:
        raise ConfigError(
            "tune.space: objective.score cannot be varied, for trials are compared by it; run a "
            "sweep for each score"
        )
    for values in _examples(job):
        trial_job(job, values)


def _examples(job: Job) -> list[dict[str, Any]]:
    """Return values of trials: each key's with the others at their first.

    Keys are independent but for conflicts between sections, which the trials themselves report.
    """
    examples = {key: domain.examples() for key, domain in job.tune.space.items()}
    first = {key: values[0] for key, values in examples.items()}
    return [{**first, key: value} for key, values in examples.items() for value in values]


def _run(job: Job, sweep: RunDirectory, monitor: Monitor) -> tuple[list[dict[str, Any]], int]:
    """Run all trials.

    Returns:
        Their rows, in a fixed order, and the number of variants measured.
    """
    trials = sweep.path / TRIALS
    grids = [domain.grid for domain in job.tune.space.values() if domain.grid is not None]
    total = job.tune.trials * math.prod(map(len, grids))
    tracker = Tracker(sweep.path, trials, total, monitor)
    actor, measurements = start_evaluations(sweep.evaluations)
    trainable = functools.partial(
        _trainable,
        job=job,
        directory=str(trials.resolve()),
        measurements=measurements,
        factory=portable_factory(job.target),
    )
    single = len(objectives(job)) == 1
    # Tune's own tables would tear the progress bar apart, and logs are kept on demand only.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, functools.partial(placement_group, job)),
        param_space={key: tune_domain(domain) for key, domain in job.tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            metric=BEST_SCORE if single else None,
            mode="max" if single else None,
            num_samples=job.tune.trials,
            max_concurrent_trials=job.tune.max_concurrent,
            search_alg=sampler(job, tracker.begun),
            scheduler=scheduler(job),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str((sweep.path / "ray").resolve()),
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=_MAX_FAILURES),
            callbacks=[tracker, *logger_callbacks(job, sweep.path)],
        ),
    )
    try:
        tuner.fit()
        answer(actor.compact.remote())
        measured = answer(actor.measured.remote())
    finally:
        ray.kill(actor, no_restart=True)
    rows = sorted(tracker.rows.values(), key=lambda row: [str(row[key]) for key in job.tune.space])
    return rows, measured


def _trainable(
    config: Mapping[str, Any],
    *,
    job: Job,
    directory: str,
    measurements: SharedMeasurements,
    factory: Callable[..., Any] | None,
) -> None:
    """Be a Tune trial; runs in a process of its own."""
    lend_factory(job.target.factory, factory)
    values = dict(config)
    place = place_of(job, values, Path(directory))
    exploits, told = job.tune.scheduler == "pbt", 0

    def report(evaluations: int, best: EvaluationRecord) -> None:
        nonlocal told
        told = evaluations
        figures = {EVALUATIONS: evaluations, BEST_SCORE: best.score, **best.costs}
        if exploits:
            with state_of(place, evaluations) as checkpoint:
                ray_tune.report(figures, checkpoint=checkpoint)
        else:
            ray_tune.report(figures)

    row = run_trial(job, values, place, measurements=measurements, report=report)
    # A trial that failed is the worst in every respect.
    worst = {name: -math.inf if name == BEST_SCORE else math.inf for name in objectives(job)}
    figures = {name: value for name, value in row.items() if isinstance(value, int | float)}
    result = {EVALUATIONS: 0, BEST_SCORE: -math.inf, **worst, **figures, "row": row}
    # One that has delivered is not to go on from another: no time has passed for the scheduler.
    ray_tune.report({**result, EVALUATIONS: told} if exploits else result)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows with different keys as one table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RunDirectoryError(
            f"{SWEEP_FILE}: values of one key differ in type ({error})"
        ) from None
