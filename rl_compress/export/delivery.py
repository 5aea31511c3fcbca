"""Delivery: the chosen policy becomes a smaller model, fine-tuned, measured and saved."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_compress.compression.compressor import Compressor
from rl_compress.costs.latency import compare_latency, device_name
from rl_compress.evaluation.evaluator import (
    EvaluationConfig,
    prepare_variant,
    recalibrate,
    repairs_weights,
)
from rl_compress.export.artifact import ExportConfig, save_artifact
from rl_compress.export.manifest import (
    CostChange,
    LatencyChange,
    Manifest,
    ScoreChange,
    Scores,
    SearchScoreChange,
)
from rl_compress.export.packed_state import Packing
from rl_compress.finetuning.activations import calibration_inputs
from rl_compress.finetuning.iterative import fade_channels
from rl_compress.finetuning.quantization_aware import TRAINABLE, quantization_aware_finetune
from rl_compress.finetuning.recovery import FinetuningConfig, finetune
from rl_compress.policy.budget import Budget
from rl_compress.policy.search_space import Widths
from rl_compress.policy.space_config import SpaceConfig
from rl_compress.pruning.contribution_config import ContributionConfig
from rl_compress.quantization.bits import LayerBits
from rl_compress.quantization.model import Quantization
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.target import Target
from rl_compress.targets.threads import threads, threads_for

_RANGE_BATCHES = 4
"""Calibration batches that ranges of activations start from."""


def _quantize(
    model: nn.Module,
    teacher: nn.Module,
    target: Target,
    space: SpaceConfig,
    finetuning: FinetuningConfig,
    masks: dict[str, Tensor],
    bits: LayerBits,
    prepare: Callable[[nn.Module], Quantization],
    device: torch.device,
    advance: Callable[[int, int], None],
) -> Quantization:
    """Quantize a fine-tuned model, training through the quantizer where that is possible."""
    if not bits:
        return Quantization()
    trained = finetuning.quantization_aware and finetuning.epochs > 0
    if not trained or space.quantization.quantizer not in TRAINABLE:
        return prepare(model)
    inputs = calibration_inputs(target, model, _RANGE_BATCHES)
    quantization, _ = quantization_aware_finetune(
        model,
        teacher,
        target,
        space.quantization,
        finetuning,
        inputs,
        device=device,
        bits=bits,
        masks=masks,
        progress=advance,
    )
    return quantization


def deliver(
    directory: Path,
    *,
    target: Target,
    target_config: TargetConfig,
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    compressor: Compressor,
    budget: Budget,
    widths: Widths,
    evaluation: EvaluationConfig,
    finetuning: FinetuningConfig,
    contribution: ContributionConfig,
    export: ExportConfig,
    advance: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> Manifest:
    """Cut, repair, fine-tune, measure and save the chosen variant.

    Args:
        directory: Where the artefact goes.
        target: Supplies data and score.
        target_config: How to build the architecture again.
        model: The uncompressed model, on the CPU; teacher of the fine-tuning.
        example_inputs: Inputs of one forward pass, batch size 1.
        compressor: Groups, costs and unit orders of ``model``.
        budget: Upper bounds, for the manifest.
        widths: The chosen variant, shape ``(num_groups,)``.
        evaluation: The repair that the search used.
        finetuning: How to fine-tune.
        contribution: How channels fade out, with that schedule.
        export: What to write.
        advance: Hears of each epoch done, with their number.

    Returns:
        The manifest as written. The test split is read here, and nowhere else.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dense = model
    if finetuning.schedule == "contribution":
        dense = copy.deepcopy(model).to(device)
        orders = fade_channels(
            dense,
            model.to(device),
            target,
            compressor.parents,
            widths,
            contribution,
            progress=advance,
        )
        # What was faded out is cut, whatever the importances said before.
        compressor = dataclasses.replace(compressor, orders=orders)
        dense, model = dense.cpu(), model.cpu()
    smaller, history = compressor.cut(dense, example_inputs, widths)
    smaller, teacher = smaller.to(device).eval(), model.to(device).eval()
    kept, masks = compressor.kept_outputs(widths, ordered=False), compressor.masks(widths)

    bits = compressor.bits.at(widths)

    def prepare(network: nn.Module, *, levels_made: bool = False) -> Quantization:
        return prepare_variant(
            network,
            teacher,
            target,
            compressor.config,
            evaluation,
            kept=kept,
            masks=masks,
            bits=bits,
            levels_made=levels_made,
        )

    levels = compressor.has_levels and not repairs_weights(model, evaluation)
    source = compressor.quantized(dense, widths) if levels else dense
    searched = compressor.cut(source, example_inputs, widths)[0].to(device).eval()
    prepare(searched, levels_made=levels)
    before = target.score(searched, "search")
    recalibrate(smaller, teacher, target, evaluation, kept, sparse=bool(masks))
    macs = int(compressor.costs.original["macs"])
    with threads(threads_for(macs * finetuning.batch_size)):
        result = finetune(
            smaller, teacher, target, finetuning, device=device, masks=masks, progress=advance
        )
        quantization = _quantize(
            smaller,
            teacher,
            target,
            compressor.config,
            finetuning,
            masks,
            bits,
            prepare,
            device,
            advance,
        )
    inputs = [
        tensor.repeat(export.latency_batch_size, *[1] * (tensor.ndim - 1)).to(device)
        for tensor in example_inputs
    ]
    original_ms, delivered_ms = compare_latency(teacher, smaller, inputs)
    full = compressor.space.full_widths
    original_costs = compressor.costs.original
    delivered_costs = compressor.costs.costs(widths)
    policy = compressor.space.policy_of(widths)
    manifest = Manifest(
        target=target_config.model_dump(mode="json"),
        history=history,
        policy_id=policy.policy_id,
        budget=budget.as_dict(),
        costs={
            cost: CostChange(
                original=int(original_costs[cost]), delivered=int(delivered_costs[cost])
            )
            for cost in original_costs
        },
        group_macs={
            group.name: CostChange(
                original=compressor.costs.macs_of_group(index, full),
                delivered=compressor.costs.macs_of_group(index, widths),
            )
            for index, group in enumerate(compressor.space.groups)
        },
        scores=Scores(
            name=target.score_name,
            search=SearchScoreChange(
                original=target.score(teacher, "search"),
                before_finetuning=before,
                delivered=target.score(smaller, "search"),
            ),
            test=ScoreChange(
                original=target.score(teacher, "test"), delivered=target.score(smaller, "test")
            ),
        ),
        latency_ms=LatencyChange(
            original=original_ms,
            delivered=delivered_ms,
            device=device_name(device),
            batch_size=export.latency_batch_size,
        ),
        finetuning_epochs=result.best_epoch,
    )
    model.cpu()
    packing = Packing(quantization, masks)
    return save_artifact(
        directory, smaller.cpu(), manifest, policy, example_inputs, export, packing
    )
