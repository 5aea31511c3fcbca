"""One variant as it would be delivered: cut, repaired, fine-tuned, and quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rl_compress.costs.latency_table import LatencyTable
from rl_compress.evaluation.evaluator import (
    EvaluationConfig,
    prepare_variant,
    recalibrate,
    repairs_weights,
)
from rl_compress.export.artifact import ExportConfig
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.model import Quantization
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target
from rl_compress.targets.threads import threads, threads_for
from rl_compress.training.iterative import fade_channels
from rl_compress.training.quantization_aware import quantization_aware_finetune, trains_through
from rl_compress.training.recovery import FinetuningConfig, finetune
from rl_compress.variants.compressor import Compressor


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What is compressed, and what is known of it."""

    target: Target
    model: nn.Module
    """The uncompressed model, on the CPU."""
    example_inputs: Inputs
    """Of one forward pass, batch size 1."""
    compressor: Compressor
    """Groups, costs and unit orders of the model."""
    budget: Budget
    latency_table: LatencyTable | None = None
    """What latencies are predicted from, where the budget bounds them."""


class Sections(Protocol):
    """What delivery needs to know of a job."""

    target: TargetConfig
    evaluation: EvaluationConfig
    finetuning: FinetuningConfig
    contribution: ContributionConfig
    export: ExportConfig


@dataclass(frozen=True, slots=True)
class FineTuned:
    """A fine-tuned variant, on the device that it was trained on."""

    model: nn.Module
    masks: dict[str, Tensor]
    quantization: Quantization
    before: float
    """The target's score on the search split before fine-tuning, repaired as in the search."""
    epochs: int
    """Epochs of fine-tuning until the weights that were kept."""


def fine_tune_variant(
    original: Original,
    levels: Levels,
    job: Sections,
    *,
    device: torch.device,
    advance: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> FineTuned:
    """Cut, repair, fine-tune and quantize a variant; the test split is not read.

    Args:
        original: What is compressed; its model, teacher of the fine-tuning, is moved to ``device``.
        levels: The variant, shape ``(D,)``.
        job: How to repair and fine-tune.
        device: Where to train.
        advance: Hears of each epoch done, with their number.
    """
    target, model, compressor = original.target, original.model.cpu(), original.compressor
    finetuning, evaluation = job.finetuning, job.evaluation
    dense = model
    if finetuning.schedule == "contribution":
        model.to(device)
        dense, orders = fade_channels(
            model,
            model,
            target,
            compressor.parents,
            compressor.space.amounts(levels),
            job.contribution,
            progress=advance,
        )
        # What was faded out is cut, whatever the importances said before.
        compressor = dataclasses.replace(compressor, orders=orders)
        dense, model = dense.cpu(), model.cpu()
    smaller = compressor.cut(dense, levels)
    made = compressor.has_packed and not repairs_weights(model, evaluation)
    source = compressor.quantized(dense, levels) if made else dense
    searched = compressor.cut(source, levels)
    smaller, searched, teacher = (
        network.to(device).eval() for network in (smaller, searched, model)
    )
    kept, masks = compressor.kept_outputs(levels, ordered=False), compressor.masks(levels)
    bits = compressor.layer_bits(levels)

    def prepare(network: nn.Module, *, weights_made: bool = False) -> Quantization:
        return prepare_variant(
            network,
            teacher,
            target,
            evaluation,
            compressor,
            levels,
            ordered=False,
            weights_made=weights_made,
        )

    prepare(searched, weights_made=made)
    before = scored(target, searched, "search")
    recalibrate(smaller, teacher, target, evaluation, kept, sparse=bool(masks))
    macs = int(compressor.costs.original["macs"])
    with threads(threads_for(macs * finetuning.batch_size)):
        result = finetune(smaller, teacher, target, finetuning, masks=masks, progress=advance)
        how = compressor.config.quantization
        if not bits:
            quantization = Quantization()
        elif trains_through(how, finetuning):
            quantization, _ = quantization_aware_finetune(
                smaller, teacher, target, how, finetuning, bits, masks=masks, progress=advance
            )
        else:
            quantization = prepare(smaller)
    return FineTuned(smaller, masks, quantization, before, result.kept_epoch)
