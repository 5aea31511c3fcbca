"""Delivery: the chosen policy becomes a smaller model, fine-tuned, measured and saved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from rl_compress.costs.latency import REPEATS, WARMUP, device_name
from rl_compress.export.artifact import save_artifact
from rl_compress.export.deployed import Deployment
from rl_compress.export.fine_tuned import Original, Sections, fine_tune_variant
from rl_compress.export.format import Delivered
from rl_compress.export.manifest import (
    CostChange,
    LatencyChange,
    LatencyPrediction,
    Manifest,
    ScoreChange,
    Scores,
    SearchScoreChange,
)
from rl_compress.export.packed_state import Packing
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, arguments_of, repeated
from rl_compress.runtimes.runtime import compared
from rl_compress.runtimes.torch import Torch
from rl_compress.space.budget import LATENCY
from rl_compress.space.search_space import Levels
from rl_compress.targets.state import scored
from rl_compress.targets.threads import threads


def deliver(
    directory: Path,
    original: Original,
    levels: Levels,
    job: Sections,
    *,
    passes: tuple[int, int] = (WARMUP, REPEATS),
    finished: Callable[[nn.Module], None] = lambda _model: None,
    advance: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> Manifest:
    """Cut, repair, fine-tune, measure and save the chosen variant.

    Args:
        directory: Where the artefact goes.
        original: What is compressed. Where latencies were predicted, they are measured with as many
            threads.
        levels: The chosen variant, shape ``(D,)``.
        job: How to repair, fine-tune and build the architecture again, and what to write.
        passes: Forward passes before latency is timed, and those that are timed.
        finished: Is shown the model, on the CPU, before it is saved.
        advance: Hears of each epoch done, with their number.

    Returns:
        The manifest as written. The test split is read here, and nowhere else.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    variant = fine_tune_variant(original, levels, job, device=device, advance=advance)
    target, model, example_inputs = original.target, original.model, original.example_inputs
    compressor, latency_table, export = original.compressor, original.latency_table, job.export
    smaller, teacher = variant.model, model
    inputs = repeated(example_inputs, export.latency_batch_size, device)
    with threads(latency_table.threads if latency_table else None):
        runtimes = Torch.load(teacher), Torch.load(smaller)
        with kept_state(teacher), kept_state(smaller):
            original_time, delivered_time = compared(
                runtimes, inputs, warmup=passes[0], repeats=passes[1]
            )
        hardware = device_name(device)
    full = compressor.space.full
    original_costs = compressor.costs.original
    delivered_costs = compressor.costs.costs(levels)
    predicted = None
    if latency_table is not None:
        error = 100.0 * abs(delivered_costs[LATENCY] / delivered_time.median - 1.0)
        predicted = LatencyPrediction(
            original=original_costs[LATENCY],
            delivered=delivered_costs[LATENCY],
            error_percent=error if latency_table.device == hardware else None,
            device=latency_table.device,
            median_error_percent=latency_table.error.median_percent,
        )
    policy = compressor.space.policy_of(levels)
    manifest = Manifest(
        target=job.target.model_dump(mode="json"),
        policy_id=policy.policy_id,
        budget=original.budget.as_dict(),
        costs={
            cost: CostChange(original=original_costs[cost], delivered=delivered_costs[cost])
            for cost in original_costs
            # It is no whole number, and what is measured comes first.
            if cost != LATENCY
        },
        group_macs={
            dimension.site: CostChange(
                original=compressor.costs.macs_of(index, full),
                delivered=compressor.costs.macs_of(index, levels),
            )
            for index, dimension in enumerate(compressor.space.dimensions)
            if dimension.prunes
        },
        scores=Scores(
            name=target.score_name,
            search=SearchScoreChange(
                original=scored(target, teacher, "search"),
                before_finetuning=variant.before,
                delivered=scored(target, smaller, "search"),
            ),
            test=ScoreChange(
                original=scored(target, teacher, "test"),
                delivered=scored(target, smaller, "test"),
            ),
        ),
        latency_ms=LatencyChange(
            original=original_time.median,
            delivered=delivered_time.median,
            original_quartiles=original_time.quartiles,
            delivered_quartiles=delivered_time.quartiles,
            runtime=f"{runtimes[1].name} {runtimes[1].version}",
            device=hardware,
            batch_size=export.latency_batch_size,
            predicted=predicted,
        ),
        finetuning_epochs=variant.epochs,
    )
    model.cpu()
    finished(smaller.cpu())
    packing = Packing(variant.quantization, variant.masks)

    def inputs_of(split: str) -> Iterator[Inputs]:
        for batch in map(target.without_labels, target.batches(split)):
            yield arguments_of(smaller, functools.partial(target.forward, smaller, batch))

    return save_artifact(
        directory,
        Delivered(smaller, manifest, policy, example_inputs, packing, inputs_of),
        export,
        Deployment(model, target, example_inputs, export.latency_batch_size, passes),
    )
