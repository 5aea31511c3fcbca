"""The main path: job -> target -> search -> best policy -> compressed model -> report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torch import nn

from rl_compress.comparison import Extras, check_baselines, run_beside
from rl_compress.errors import ConfigError
from rl_compress.evaluation.precision import computes_in_bfloat16
from rl_compress.evaluation.shared import SharedMeasurements
from rl_compress.export.manifest import Manifest
from rl_compress.importance.contribution_history import save_history
from rl_compress.job import Job, filled_in
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.rehearsal import rehearse
from rl_compress.remote_runs import opened
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.searchers.reachable import check_reachable
from rl_compress.session import Session
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.cache import check_cache
from rl_compress.targets.fingerprint import fingerprint_of_job, fingerprint_of_target
from rl_compress.targets.target import Target
from rl_compress.training.pretraining import PretrainingConfig

RUNS = Path("runs")
"""Where runs are kept that were given no output directory."""

_NOTHING_MORE = Extras()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run produced."""

    directory: Path
    """Where its files are on this machine."""
    best: EvaluationRecord
    """The evaluation with the highest reward."""
    manifest: Manifest
    """What was delivered, with its figures."""
    location: str
    """The run directory, or the URI that it is kept at."""


def search(
    job: Job,
    output: str | Path | None = None,
    *,
    extras: Extras = _NOTHING_MORE,
    resume: bool = False,
    address: str | None = None,
    monitor: Monitor | None = None,
    measurements: SharedMeasurements | None = None,
) -> RunResult:
    """Compress a target; for the arguments see :func:`rl_compress.search`.

    Args:
        job: What to compress, and how far.
        output: Where. With a URI the run works in a folder of the cache.
        extras: What is done beside.
        resume: Continue the job's earlier run there.
        address: A Ray cluster.
        monitor: Hears of progress.
        measurements: What other trials of the same sweep measured; the run is one of them.

    Raises:
        RLCompressError: Bad input, or a run that failed; evaluations made are kept.
    """
    check_baselines(extras.baselines)
    where = _locate(job, output, resume=resume)
    with opened(where, monitor or SilentMonitor()) as (run, telling), contextlib.ExitStack() as ray:
        run.check(job.to_yaml(), resume=resume, filled_in=filled_in)
        if job.search.learns:
            check_cache()
            check_reachable(address)
        session = Session(job, run, monitor=telling, address=address, measurements=measurements)
        _prepare(session, extras, ray)
        telling.phase("search")
        session.search()
        ray.close()
        if session.stopped_early:
            telling.say(f"search ended early: {session.stopped_early}")
        best = session.choose()
        start = time.perf_counter()
        manifest = session.deliver(best.realised_policy(), run.best)
        if extras.verify:
            session.verify(extras.verify, manifest, time.perf_counter() - start)
        run_beside(session, extras)
        session.report()
        return RunResult(run.path, best, manifest, run.location)


def _prepare(session: Session, extras: Extras, ray: contextlib.ExitStack) -> None:
    """Prepare a run whose directory is locked, or what is left of it.

    Args:
        session: It has just begun.
        extras: What is done beside.
        ray: Holds the connection to Ray, and the room for env runners there.
    """
    job, run, monitor = session.job, session.run, session.monitor
    fingerprint = fingerprint_of_job(asked_for(job, extras))
    in_sweep, pretrains = session.measurements is not None, job.pretraining.mode != "none"
    # A sweep does it once for all its trials, and what was begun was rehearsed then.
    is_new = not in_sweep and not run.evaluations.exists()
    if is_new and pretrains:
        check(job, monitor=monitor)

    def built(model: nn.Module, target: Target) -> None:
        parts = [name for _, name in job.named_parts()]
        fingerprint.update(fingerprint_of_target(job.target, target, model, parts))
        # A trial of a sweep has its place already.
        made = len(run.store().read()) if run.evaluations.exists() else 0
        if job.search.learns and not in_sweep and made < job.search.evaluations:
            from rl_compress.agent.rllib.standby import standby

            session.settings = ray.enter_context(standby(job.search, job.target, session.address))
        if pretrains:
            run.create(job.to_yaml())

    session.prepare(built)
    if is_new and not pretrains:
        rehearse(session)
    for warning in session.soundness.warnings if session.soundness else ():
        monitor.say(f"warning: {warning}")
    run.create(job.to_yaml())
    run.note_fingerprint(fingerprint)
    monitor.say(f"run directory: {run.location}")
    if (contribution := session.problem.contribution) is not None:
        save_history(contribution, run.contribution)
    run.write_json("space.json", session.problem.describe_space())
    run.write_json("environment.json", describe_environment())


def asked_for(job: Job, extras: Extras) -> str:
    """Return all that decides what a run does, apart from the target: for its fingerprint."""
    profile = job.device_profile()
    return "\n".join(
        [
            job.to_yaml(),
            "" if profile is None else profile.model_dump_json(),
            f"{extras.verify} {list(extras.baselines)} {extras.seeds}",
            # What the machine can do is part of what is asked for.
            *([str(computes_in_bfloat16())] if job.evaluation.precision == "auto" else []),
        ]
    )


def check(job: Job, *, monitor: Monitor | None = None) -> Session:
    """Build a job's target, look at its layers, data and budget, and rehearse what a run will do.

    Nothing is trained but a copy, for one step: see :mod:`rl_compress.rehearsal`.

    Raises:
        ConfigError: Something in the job cannot work; the message names the key and the remedy.
    """
    untrained = job.model_copy(update={"pretraining": PretrainingConfig()})
    session = Session(untrained, RunDirectory(Path()), monitor=monitor)
    session.prepare()
    session.job = job
    rehearse(session)
    if job.pretraining.mode != "none":
        # What it scores before it is trained is no news.
        session.soundness = None
    return session


def compress(
    job: Job,
    policy: CompressionPolicy | Callable[[Session], CompressionPolicy],
    output: str | Path,
    *,
    pretraining: Path | None = None,
    monitor: Monitor | None = None,
) -> Manifest:
    """Carry out a given compression policy: cut, fine-tune, export.

    Args:
        job: The target, and how to fine-tune and export.
        policy: A decision for every prunable group, rounded to what is allowed; or what chooses it
            for the job as prepared.
        output: Folder of the artefact; must not exist, or be an older artefact.
        pretraining: Folder with the checkpoints of the job's pre-training, to be taken up; by
            default one beside ``output``.
        monitor: Hears of progress.

    Raises:
        ConfigError: The policy does not fit the target or exceeds the job's budget.
    """
    directory = Path(output)
    if directory.exists() and not (directory / "manifest.json").exists():
        raise ConfigError(
            f"{directory}: exists and is no compressed model; choose another --output"
        )
    place = RunDirectory(directory)
    beside = directory.with_name(f"{directory.name}-pretraining")
    place.pretraining = pretraining or beside
    session = Session(job, place, monitor=monitor)
    session.prepare()
    chosen = policy if isinstance(policy, CompressionPolicy) else policy(session)
    return session.deliver(chosen, directory)


def _locate(job: Job, output: str | Path | None, *, resume: bool) -> str | Path:
    """Find the place named, the job's latest, or a new one."""
    home = RUNS / job.name
    if output is not None:
        return output
    if resume:
        earlier = sorted(path for path in home.glob("*") if (path / "job.yaml").exists())
        if not earlier:
            raise ConfigError(f"--resume: there is no run of {job.name} in {home}; leave it out")
        return earlier[-1]
    return home / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
