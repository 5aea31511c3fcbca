"""The main path: job -> target -> search -> best policy -> compressed model -> report."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import nn

from rl_compress.comparison import check_baselines, plan, run_beside
from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.evaluation.candidates import RunIdentity
from rl_compress.evaluation.evaluator import EvaluationConfig
from rl_compress.evaluation.precision import computes_in_bfloat16, settled
from rl_compress.evaluation.shared import SharedMeasurements
from rl_compress.export.delivery import deliver
from rl_compress.export.fine_tuned import FineTuned, fine_tune_variant
from rl_compress.export.manifest import Manifest
from rl_compress.export.verification import best_distinct
from rl_compress.export.verification import verify as verify_candidates
from rl_compress.importance.contribution_history import save_history
from rl_compress.job import Job, filled_in
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.rehearsal import original_of, rehearse
from rl_compress.remote_runs import opened
from rl_compress.report.report import build_report
from rl_compress.report.run_files import read_run
from rl_compress.report.run_summary import summarize
from rl_compress.report.verification import better_than_delivered
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.pareto import pareto_front
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.preparation import Subject, prepare
from rl_compress.searchers.reachable import check_reachable
from rl_compress.searching import SearchTask
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.batches import moved
from rl_compress.targets.cache import check_cache
from rl_compress.targets.fingerprint import fingerprint_of_job, fingerprint_of_target
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target
from rl_compress.training.pretraining import PretrainingConfig, pretrain

RUNS = Path("runs")
"""Where runs are kept that were given no output directory."""

_RANKED = 10
"""Best variants of a search that are compared in float32."""


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
    resume: bool = False,
    address: str | None = None,
    verify: int = 0,
    baselines: Sequence[str] = (),
    seeds: int = 1,
    monitor: Monitor | None = None,
    measurements: SharedMeasurements | None = None,
) -> RunResult:
    """Compress a target: search for the best policy, carry it out, fine-tune, deliver, report.

    Args:
        job: What to compress, and how far.
        output: The run directory, or a URI of one, as ``s3://bucket/runs/name``; by default
            ``runs/<name>/<time>``. With a URI the run works in a folder of the cache, and any
            machine can resume it.
        resume: Continue the job's earlier run in that directory; without ``output``, the latest.
        address: A Ray cluster; by default a local one is started.
        verify: Fine-tune that many of the best candidates too, to see whether the search ordered
            them right. The search's best is delivered all the same.
        baselines: Searches to compare with, at the same number of evaluations.
        seeds: Seeds that those searches, and this one, are repeated with.
        monitor: Hears of progress.
        measurements: What other trials of the same sweep measured; the run is one of them.

    Raises:
        RLCompressError: Bad input, or a run that failed; evaluations made are kept.
    """
    check_baselines(baselines)
    where = _locate(job, output, resume=resume)
    with opened(where, monitor or SilentMonitor()) as (run, telling):
        run.check(job.to_yaml(), resume=resume, filled_in=filled_in)
        if job.search.learns:
            check_cache()
            check_reachable(address)
        return _search_in(
            run,
            job,
            address,
            verify,
            baselines,
            seeds,
            monitor=telling,
            measurements=measurements,
        )


def _search_in(
    run: RunDirectory,
    job: Job,
    address: str | None,
    verify: int,
    baselines: Sequence[str],
    seeds: int,
    *,
    monitor: Monitor,
    measurements: SharedMeasurements | None,
) -> RunResult:
    """Run a job, or what is left of it, in a directory that is locked."""
    asked = asked_for(job, verify=verify, baselines=baselines, seeds=seeds)
    fingerprint = fingerprint_of_job(asked)
    # A sweep does it once for all its trials, and what was begun was rehearsed then.
    new = measurements is None and not run.evaluations.exists()
    if new and job.pretraining.mode != "none":
        check(job, monitor=monitor)
    settings = job.search
    with contextlib.ExitStack() as ray:

        def begin(model: nn.Module, target: Target) -> None:
            nonlocal settings
            parts = [name for _, name in job.named_parts()]
            fingerprint.update(fingerprint_of_target(job.target, target, model, parts))
            # A trial of a sweep has its place already.
            if settings.learns and measurements is None and not _is_searched(run, job):
                from rl_compress.agent.rllib.standby import standby

                settings = ray.enter_context(standby(settings, job.target, address))

        subject = prepare_job(
            job,
            run.pretraining,
            monitor,
            built=begin,
            before_training=lambda: run.create(job.to_yaml()),
        )
        if new and job.pretraining.mode == "none":
            rehearse(job, subject)
        if subject.soundness is not None:
            for warning in subject.soundness.warnings:
                monitor.say(f"warning: {warning}")
        run.create(job.to_yaml())
        run.note_fingerprint(fingerprint)
        monitor.say(f"run directory: {run.location}")
        if subject.compressor.contribution is not None:
            save_history(subject.compressor.contribution, run.contribution)
        run.write_json("space.json", subject.describe_space())
        run.write_json("environment.json", describe_environment())
        task = make_task(
            job, subject, run, address=address, monitor=monitor, measurements=measurements
        )
        evaluation = _settled(job, subject, run)
        task = dataclasses.replace(task, search=settings, evaluation=evaluation)
        monitor.phase("search")
        progress, stopped_early = task.search_for_policy()
    if stopped_early:
        monitor.say(f"search ended early: {stopped_early}")
    best = choose(task, job, stopped_early)
    monitor.phase("fine-tuning")
    start = time.perf_counter()
    manifest = _deliver(job, subject, best.realised_policy(), run.best, monitor)
    if verify:
        _verify(job, subject, run, verify, manifest, time.perf_counter() - start, monitor)
    if chosen := plan(task, baselines, seeds):
        monitor.phase("baselines")
        run_beside(task, chosen, progress.done, monitor.step)
    monitor.phase("report")
    run.write_json(
        "summary.json", summarize(read_run(run.path), dataclasses.replace(progress, best=best))
    )
    build_report(run.path)
    run.finish()
    return RunResult(run.path, best, manifest, run.location)


def _is_searched(run: RunDirectory, job: Job) -> bool:
    """Say whether all evaluations have been made, before the run was interrupted."""
    made = EvaluationStore(run.evaluations).read() if run.evaluations.exists() else []
    return len(made) >= job.search.evaluations


def asked_for(job: Job, *, verify: int = 0, baselines: Sequence[str] = (), seeds: int = 1) -> str:
    """Return all that decides what a run does, apart from the target: for its fingerprint."""
    profile = job.device_profile()
    return "\n".join(
        [
            job.to_yaml(),
            "" if profile is None else profile.model_dump_json(),
            f"{verify} {list(baselines)} {seeds}",
            # What the machine can do is part of what is asked for.
            *([str(computes_in_bfloat16())] if job.evaluation.precision == "auto" else []),
        ]
    )


def prepare_job(
    job: Job,
    pretraining: Path,
    monitor: Monitor,
    *,
    built: Callable[[nn.Module, Target], None] = lambda _model, _target: None,
    before_training: Callable[[], None] = lambda: None,
) -> Subject:
    """Build a job's target, train it first where the job says so, and look at its layers.

    Args:
        job: What to compress.
        pretraining: Folder of the checkpoints; taken up where it exists.
        monitor: Hears of progress.
        built: Called with the model as it is built.
        before_training: Called when the target has proved sound, before it is trained.
    """

    def train(model: nn.Module, target: Target) -> None:
        built(model, target)
        if job.pretraining.mode == "none":
            return
        before_training()
        monitor.phase("pre-training")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pretrain(model, target, job.pretraining, pretraining, device=device, progress=monitor.step)
        monitor.phase("preparation")

    monitor.phase("preparation")
    job.check_parts()
    contribution = job.contribution
    if job.search.needs != "contributions":
        # To rank units for another search they are measured once, at full keep-ratios.
        contribution = contribution.model_copy(update={"iterations": 1})
    profile = job.device_profile()
    table = profile.latency_table if profile else None
    return prepare(
        job.target,
        job.space,
        job.effective_budget(),
        others=job.search.budgets,
        contribution=contribution,
        latency_table=None if table is None else Path(table),
        latency_batch_size=job.export.latency_batch_size,
        score=job.objective.score,
        score_options=job.objective.options_of_score,
        own_costs=job.own_costs(),
        train=train,
    )


def check(job: Job, *, monitor: Monitor | None = None) -> Subject:
    """Build a job's target, look at its layers, data and budget, and rehearse what a run will do.

    Nothing is trained but a copy, for one step: see :mod:`rl_compress.rehearsal`.

    Raises:
        ConfigError: Something in the job cannot work; the message names the key and the remedy.
    """
    untrained = job.model_copy(update={"pretraining": PretrainingConfig()})
    subject = prepare_job(untrained, Path(), monitor or SilentMonitor())
    rehearse(job, subject)
    # What it scores before it is trained is no news.
    is_trained = job.pretraining.mode == "none"
    return subject if is_trained else dataclasses.replace(subject, soundness=None)


def make_task(
    job: Job,
    subject: Subject,
    run: RunDirectory,
    *,
    address: str | None = None,
    monitor: Monitor | None = None,
    measurements: SharedMeasurements | None = None,
) -> SearchTask:
    """Return the search that a job asks for on a prepared target."""
    monitor = monitor or SilentMonitor()
    identity = RunIdentity(
        run=run.name,
        trial="" if measurements is None else run.name,
        algorithm=job.search.algorithm,
        seed=job.search.seed,
    )
    return SearchTask(
        subject=subject,
        target=job.target,
        objective=job.objective,
        evaluation=job.evaluation,
        search=job.search,
        run=run,
        contribution_threshold=job.contribution.threshold,
        identity=identity,
        address=address,
        measurements=measurements,
        on_sensitivity=monitor.step,
        on_progress=monitor.searched,
        say=monitor.say,
    )


def _settled(job: Job, subject: Subject, run: RunDirectory) -> EvaluationConfig:
    """Return how all processes of a run measure, on whichever machines it goes on."""
    if job.evaluation.precision != "auto":
        return job.evaluation

    def choose() -> str:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = copy.deepcopy(subject.model).to(device)
        inputs = moved(subject.example_inputs, device)
        return settled("auto", model, inputs, quantized=job.space.quantization.quantizes)

    chosen = run.settle("precision.txt", choose)
    return job.evaluation.model_copy(update={"precision": chosen})


def choose(task: SearchTask, job: Job, stopped_early: str | None = None) -> EvaluationRecord:
    """Write the Pareto front and return the record with the highest reward within the budget.

    The front is over all records, those for other budgets included, as they were measured. Where
    that was not in float32, the ten best are measured again in it, and the best is one of them.

    Raises:
        EvaluationError: There is no such record; the message says why the search stopped.
    """
    run = task.run
    records = EvaluationStore(run.evaluations).read()
    eligible = list(filter(task.subject.may_win, records))
    ranking = task.rewards_in_float32(best_distinct(eligible, _RANKED))
    best = best_distinct(eligible, 1, ranking)
    if not best:
        raise EvaluationError(f"{run.location}: no variant could be evaluated ({stopped_early})")
    front = pareto_front(records, job.objective.objectives(job.effective_budget()))
    run.write_records("pareto.parquet", front)
    return best[0]


def compress(
    job: Job,
    policy: CompressionPolicy,
    output: str | Path,
    *,
    pretraining: Path | None = None,
    monitor: Monitor | None = None,
) -> Manifest:
    """Carry out a given compression policy: cut, fine-tune, export.

    Args:
        job: The target, and how to fine-tune and export.
        policy: A decision for every prunable group; rounded to what is allowed.
        output: Folder of the artefact; must not exist, or be an older artefact.
        pretraining: Folder with the checkpoints of the job's pre-training, to be taken up; by
            default one beside ``output``.
        monitor: Hears of progress.

    Raises:
        ConfigError: The policy does not fit the target or exceeds the job's budget.
    """
    monitor = monitor or SilentMonitor()
    directory = Path(output)
    if directory.exists() and not (directory / "manifest.json").exists():
        raise ConfigError(
            f"{directory}: exists and is no compressed model; choose another --output"
        )
    subject = prepare_job(job, pretraining or _beside(directory), monitor)
    monitor.phase("fine-tuning")
    return _deliver(job, subject, policy, directory, monitor)


def _verify(
    job: Job,
    subject: Subject,
    run: RunDirectory,
    count: int,
    manifest: Manifest,
    seconds: float,
    monitor: Monitor,
) -> None:
    """Fine-tune the best candidates; the one delivered, which took ``seconds``, is done already."""
    target, space, original = subject.target, subject.compressor.space, original_of(subject)
    monitor.phase("verification")

    def fine_tune(policy: CompressionPolicy) -> FineTuned:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return fine_tune_variant(original, space.levels_of(policy), job, device=device)

    assert manifest.scores is not None, "what was delivered just now has scores"
    scores = manifest.scores.search
    records = EvaluationStore(run.evaluations).read()
    rows = verify_candidates(
        run.verification,
        best_distinct(list(filter(subject.may_win, records)), count, run.ranking()),
        delivered={manifest.policy_id: (scores.before_finetuning, scores.delivered, seconds)},
        fine_tune=fine_tune,
        score=lambda variant: scored(target, variant.model, "search"),
        advance=monitor.step,
    )
    if better := better_than_delivered(rows):
        run.write_text("better_policy.json", f"{better.policy}\n")


def _deliver(
    job: Job, subject: Subject, policy: CompressionPolicy, directory: Path, monitor: Monitor
) -> Manifest:
    compressor = subject.compressor
    levels = compressor.space.levels_of(policy)
    if not subject.budget.admits(costs := compressor.costs.costs(levels)):
        raise ConfigError(f"policy: its costs {costs} exceed the budget {subject.budget.as_dict()}")
    return deliver(directory, original_of(subject), levels, job, advance=monitor.step)


def _beside(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}-pretraining")


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
