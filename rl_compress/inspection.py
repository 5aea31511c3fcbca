"""Looking at a job without running it: sensitivities, single policies, what a run delivered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from rl_compress.costs.latency_table import LatencyTable, cached_path
from rl_compress.errors import ConfigError
from rl_compress.export.artifact import load_compressed
from rl_compress.job import Job
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.report.group_plots import sensitivity_map
from rl_compress.report.vulnerability_plots import vulnerability_plot
from rl_compress.robustness.vulnerability import map_vulnerability
from rl_compress.robustness.vulnerability_map import VulnerabilityMap
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.searchers.preparation import check_layer_names
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import PRUNING, SensitivityCurves
from rl_compress.session import Session
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.factory import build_model, make_target
from rl_compress.targets.state import scored
from rl_compress.targets.target import SPLITS
from rl_compress.targets.threads import threads
from rl_compress.variants.compressor import Compressor


def measure_curves(job: Job, output: Path, *, monitor: Monitor | None = None) -> SensitivityCurves:
    """Measure the sensitivity curves of a job's target, and save them with a plot.

    Args:
        job: The target, its space, and how variants are measured.
        output: Folder for ``sensitivity.parquet`` and ``sensitivity.svg``, with a plot beside it
            for each kind of bits that is searched.
        monitor: Hears of progress.
    """
    run = RunDirectory(output)
    output.mkdir(parents=True, exist_ok=True)
    session = Session(job, run, monitor=monitor)
    session.prepare()
    session.monitor.phase("sensitivity")
    for earlier in (run.sensitivity, run.sensitivity.with_suffix(".jsonl")):
        earlier.unlink(missing_ok=True)
    curves = session.curves(session.evaluator().in_float32())
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
    directory = RunDirectory(output)
    output.mkdir(parents=True, exist_ok=True)
    session = Session(job, directory, monitor=monitor)
    session.prepare()
    monitor, problem = session.monitor, session.problem
    if run is not None:
        after = load_compressed(run / "best")
    else:
        evaluator = session.evaluator()
        monitor.phase("sensitivity")
        curves = session.curves(evaluator)
        levels = greedy_levels(curves, problem.budget, problem.space, problem.costs)
        after = evaluator.variant(levels).cpu()
    maps = []
    for name, model in (("before", session.model), ("after", after)):
        monitor.phase(f"attacks {name} compression")
        with threads(1):
            found = map_vulnerability(model, session.target, job.vulnerability, monitor.step)
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
    if split not in SPLITS:
        raise ConfigError(f"--split: must be one of {', '.join(SPLITS)}, but got {split!r}")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(job, RunDirectory(Path(folder)), monitor=monitor)
        session.prepare()
    problem, target = session.problem, session.target
    levels = problem.space.levels_of(policy)
    evaluator = problem.evaluator(target, latency=False).in_float32()
    session.monitor.phase("evaluation")
    costs, original = problem.costs.costs(levels), problem.original_costs
    return {
        "policy_id": problem.space.policy_of(levels).policy_id,
        "scores": {
            f"{target.score_name} ({split})": (
                scored(target, session.model, split),
                scored(target, evaluator.variant(levels), split),
            )
        },
        "costs": {cost: (original[cost], costs[cost]) for cost in costs},
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
    structure = job.space.pruning.structure
    if structure != "channels":
        raise ConfigError(
            f"space.pruning.structure: {structure} leaves layers as wide as they are, and latency "
            f"as it is; a latency table needs channels"
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
