"""Looking at a job without running it: sensitivities, single policies, what a run delivered."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rl_compress.costs.latency_table import LatencyTable, cached_path
from rl_compress.errors import ConfigError
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.export.artifact import load_compressed
from rl_compress.export.verification import best_distinct
from rl_compress.job import Job
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.report.group_plots import sensitivity_map
from rl_compress.report.vulnerability_plots import vulnerability_plot
from rl_compress.robustness.vulnerability import map_vulnerability
from rl_compress.robustness.vulnerability_map import VulnerabilityMap
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.preparation import Subject, check_layer_names
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import PRUNING, SensitivityCurves
from rl_compress.session import make_task, prepare_job
from rl_compress.space.budget import Budget
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.factory import build_model, make_target
from rl_compress.targets.state import scored
from rl_compress.targets.target import SPLITS
from rl_compress.targets.threads import threads
from rl_compress.variants.compressor import Compressor


def best_policy(
    directory: Path, budget: Mapping[str, float | str], subject: Subject | None = None
) -> CompressionPolicy:
    """Return the best policy that a run has evaluated within a budget.

    Args:
        directory: A run directory; the run may still be going on.
        budget: As in a job file.
        subject: The target as prepared for the budget. A bound on latency needs it: runs may have
            measured latencies, predicted them from an older table, or done neither.

    Raises:
        ConfigError: The run has no evaluation within the budget.
    """
    try:
        original = json.loads((directory / "space.json").read_text(encoding="utf-8"))["costs"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"--run {directory}: there is no run (no readable space.json)") from None
    bounds = Budget.parse(budget, original) if subject is None else subject.budget
    records = EvaluationStore(directory / "evaluations").read()

    def costs(record: EvaluationRecord) -> dict[str, float]:
        if subject is None:
            return record.costs()
        compressor = subject.compressor
        return compressor.costs.costs(compressor.space.levels_of(record.realised_policy()))

    within = [
        record for record in records if record.scored_in_full and bounds.admits(costs(record))
    ]
    if not within:
        raise ConfigError(
            f"--run {directory}: none of its {len(records)} evaluations meets the budget "
            f"{bounds.as_dict()}; search with that budget"
        )
    return best_distinct(within, 1, RunDirectory(directory).ranking())[0].realised_policy()


def measure_curves(job: Job, output: Path, *, monitor: Monitor | None = None) -> SensitivityCurves:
    """Measure the sensitivity curves of a job's target, and save them with a plot.

    Args:
        job: The target, its space, and how variants are measured.
        output: Folder for ``sensitivity.parquet`` and ``sensitivity.svg``, with a plot beside it
            for each kind of bits that is searched.
        monitor: Hears of progress.
    """
    monitor = monitor or SilentMonitor()
    run = RunDirectory(output)
    output.mkdir(parents=True, exist_ok=True)
    subject = prepare_job(job, run.pretraining, monitor)
    task = make_task(job, subject, run, monitor=monitor)
    monitor.phase("sensitivity")
    for earlier in (run.sensitivity, run.sensitivity.with_suffix(".jsonl")):
        earlier.unlink(missing_ok=True)
    curves = task.curves(task.make_evaluator().in_float32())
    for decides in dict.fromkeys(curves.decides):
        suffix = "" if decides == PRUNING else f"-{decides.replace('_', '-')}"
        plot = sensitivity_map(curves.points(decides), score=job.objective.score, decides=decides)
        run.write_text(f"sensitivity{suffix}.svg", plot)
    return curves


def map_attacks(
    job: Job, output: Path, *, run: Path | None = None, monitor: Monitor | None = None
) -> tuple[VulnerabilityMap, VulnerabilityMap]:
    """Attack a job's target before and after compression; see :func:`map_vulnerability`.

    Args:
        job: The target, and with what it is attacked.
        output: Folder for ``vulnerability-{before,after}.parquet`` and ``vulnerability.svg``.
        run: A finished run, whose delivered model is the one after compression. By default it is
            the variant of the policy that the sensitivity curves recommend, not fine-tuned; they
            are measured for that, where they are not in the folder.
        monitor: Hears of progress.

    Returns:
        The maps before and after.

    Raises:
        ConfigError: The target has no loss to attack by.
    """
    monitor = monitor or SilentMonitor()
    directory = RunDirectory(output)
    output.mkdir(parents=True, exist_ok=True)
    subject = prepare_job(job, directory.pretraining, monitor)
    if run is not None:
        after = load_compressed(run / "best")
    else:
        task = make_task(job, subject, directory, monitor=monitor)
        evaluator = task.make_evaluator()
        monitor.phase("sensitivity")
        curves, compressor = task.curves(evaluator), subject.compressor
        levels = greedy_levels(curves, subject.budget, compressor.space, compressor.costs)
        after = evaluator.variant(levels).cpu()
    maps = []
    for name, model in (("before", subject.model), ("after", after)):
        monitor.phase(f"attacks {name} compression")
        with threads(1):
            found = map_vulnerability(model, subject.target, job.vulnerability, monitor.step)
        found.save(output / f"vulnerability-{name}.parquet")
        maps.append(found)
    directory.write_text("vulnerability.svg", vulnerability_plot(maps[0], maps[1]))
    return maps[0], maps[1]


def evaluate_policy(
    job: Job, policy: CompressionPolicy, split: str, *, monitor: Monitor | None = None
) -> dict[str, Any]:
    """Score and cost one policy without fine-tuning it.

    Returns:
        ``policy_id``, and under ``scores`` and ``costs`` pairs of the uncompressed target's figure
        and the variant's.

    Raises:
        ConfigError: The policy does not fit the target, or there is no such split.
    """
    monitor = monitor or SilentMonitor()
    if split not in SPLITS:
        raise ConfigError(f"--split: must be one of {', '.join(SPLITS)}, but got {split!r}")
    with tempfile.TemporaryDirectory() as folder:
        subject = prepare_job(job, Path(folder), monitor)
    compressor, target = subject.compressor, subject.target
    levels = compressor.space.levels_of(policy)
    evaluator = Evaluator(
        target,
        compressor,
        job.objective.score,
        job.evaluation.in_float32(),
        score_options=job.objective.options_of_score,
    )
    monitor.phase("evaluation")
    costs = compressor.costs.costs(levels)
    return {
        "policy_id": compressor.space.policy_of(levels).policy_id,
        "scores": {
            f"{target.score_name} ({split})": (
                scored(target, subject.model, split),
                scored(target, evaluator.variant(levels), split),
            )
        },
        "costs": {cost: (subject.original_costs[cost], costs[cost]) for cost in costs},
    }


def measure_latency_table(
    job: Job,
    output: Path | None = None,
    *,
    device: str | None = None,
    monitor: Monitor | None = None,
) -> tuple[LatencyTable, Path]:
    """Measure the latency table of a job's target on this machine, and save it.

    Args:
        job: The target and its space; batches are those of ``export.latency_batch_size``.
        output: The file; by default one in the cache, where searches on this machine find it.
        device: ``cpu`` or ``cuda``; by default that which searches use.
        monitor: Hears of progress.

    Returns:
        The table, and its file.

    Raises:
        ConfigError: There is no such device, or the job prunes what takes no less time for it.
    """
    monitor = monitor or SilentMonitor()
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device: must be cpu or cuda, but got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: torch finds no cuda device here; leave it out for the CPU")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output {output}: is a directory; name a file to write")
    if not job.space.pruning.narrows:
        raise ConfigError(
            f"space.pruning.structure: {job.space.pruning.structure} leaves layers as wide as they "
            f"are, and latency as it is; a latency table needs channels"
        )
    hardware = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    monitor.phase("preparation")
    target = make_target(job.target)
    model = build_model(target, job.target)
    check_layer_names(job.space, model)
    inputs = target.inputs_for(model)
    # Which channels go first does not matter, only how many; this ranking needs no data.
    pruning = job.space.pruning.model_copy(update={"importance": "l1", "importance_options": {}})
    compressor = Compressor.prepare(
        model, inputs, job.space.model_copy(update={"pruning": pruning})
    )
    monitor.phase("latency table")
    table = LatencyTable.build(
        model,
        compressor.network.groups,
        compressor.variant,
        compressor.space,
        inputs,
        batch_size=job.export.latency_batch_size,
        device=hardware,
        advance=monitor.step,
    )
    path = output or cached_path(table.device, table.digest, table.batch_size)
    table.save(path)
    return table, path
