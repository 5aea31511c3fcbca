"""One variant as it would be delivered: cut, repaired, fine-tuned, and quantized."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_compress.evaluation.evaluator import (
    EvaluationConfig,
    prepare_variant,
    recalibrate,
    repairs_weights,
)
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import Quantization
from rl_compress.repair.activations import calibration_pass
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target
from rl_compress.targets.threads import threads, threads_for
from rl_compress.training.iterative import fade_channels
from rl_compress.training.quantization_aware import TRAINABLE, quantization_aware_finetune
from rl_compress.training.recovery import FinetuningConfig, finetune
from rl_compress.variants.compressor import Compressor

_RANGE_BATCHES = 4
"""Calibration batches that ranges of activations start from."""


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
    run = calibration_pass(target, model, _RANGE_BATCHES)
    quantization, _ = quantization_aware_finetune(
        model,
        teacher,
        target,
        space.quantization,
        finetuning,
        run,
        device=device,
        bits=bits,
        masks=masks,
        progress=advance,
    )
    return quantization


def fine_tune_variant(
    model: nn.Module,
    levels: Levels,
    *,
    target: Target,
    compressor: Compressor,
    evaluation: EvaluationConfig,
    finetuning: FinetuningConfig,
    contribution: ContributionConfig,
    device: torch.device,
    advance: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> FineTuned:
    """Cut, repair, fine-tune and quantize a variant; the test split is not read.

    Args:
        model: The uncompressed model, teacher of the fine-tuning; it is moved to ``device``.
        levels: The variant, shape ``(D,)``.
        target: Supplies data and score.
        compressor: Groups, costs and unit orders of ``model``.
        evaluation: The repair that the search used.
        finetuning: How to fine-tune.
        contribution: How channels fade out, with that schedule.
        device: Where to train.
        advance: Hears of each epoch done, with their number.
    """
    model.cpu()
    dense = model
    if finetuning.schedule == "contribution":
        dense = copy.deepcopy(model).to(device)
        orders = fade_channels(
            dense,
            model.to(device),
            target,
            compressor.parents,
            compressor.space.amounts(levels),
            contribution,
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
    return FineTuned(smaller, masks, quantization, before, result.kept_epoch)
