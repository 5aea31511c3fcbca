"""Recovery: fine-tuning a compressed network with the uncompressed one as its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rl_compress.targets.batches import Batch, moved
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target, device_of
from rl_compress.training.loop import Course, Judge, Plan, TrainingConfig, train


class FinetuningConfig(TrainingConfig):
    """The `finetuning` section of a job."""

    epochs: int = Field(
        default=30, ge=0, description="Passes over the training split; 0 delivers without any."
    )
    distillation: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Weight of the teacher's outputs in the loss; the labels have the rest.",
    )
    temperature: float = Field(default=2.0, gt=0, description="Softens the outputs compared.")
    schedule: Literal["one_shot", "contribution"] = Field(
        default="one_shot",
        description="How channels go: all at once before fine-tuning, or by and by, those that "
        "contribute least first, with fine-tuning in between (see the section `contribution`).",
    )
    quantization_aware: bool = Field(
        default=True,
        description="With the quantizers symmetric and uniform: train once more through the "
        "quantizer, learning its step sizes.",
    )


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    target: Target,
    config: FinetuningConfig,
    *,
    masks: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> Course:
    """Train a compressed network on the training split, in place.

    The loss is ``d * distillation + (1 - d) * task``: the target's
    :meth:`~rl_compress.targets.target.Target.distillation_loss`, for logits
    ``T^2 KL(teacher || student)`` (Hinton et al., 2015), and its loss on the labels; without the
    latter distillation alone. AdamW with a one-cycle learning rate and clipped gradients. Of
    the epochs that are better than the start on the search split, the last within one standard
    error of the best is kept (:func:`standard_error`). Training that diverges (a loss or gradient
    that is NaN or infinite) ends with what was kept before.

    Args:
        student: The compressed network, which must own its tensors: they are written into. Left in
            evaluation mode, without gradients.
        teacher: The uncompressed network; only its outputs are used. On the same device.
        target: Supplies data, losses and score.
        config: How long and how fast.
        masks: For each sparse weight, by its full name, which elements stay; the others stay zero.
        progress: Called after each epoch with the epochs done and their number.

    Returns:
        The scores on the search split before, and after each epoch, and which of them was kept. The
        same seed gives the same weights.
    """
    student.eval()
    forward = partial(target.forward, student)
    plan = Plan(
        section="finetuning",
        network=student,
        loss=distillation(target, forward, teacher, config.temperature, config.distillation),
        epochs=config.epochs,
        masks=masks or {},
    )
    judge = Judge(
        start=scored(target, student, "search"),
        score=partial(scored, target, student, "search"),
        tolerance=standard_error(teacher, target) if config.epochs else 0.0,
    )
    return train(
        plan,
        target,
        target.split("train"),
        config,
        judge,
        progress=lambda epoch: progress(epoch, config.epochs),
    )


def distillation(
    target: Target,
    forward: Callable[[Batch], Tensor],
    teacher: nn.Module,
    temperature: float,
    share: float = 1.0,
) -> Callable[[Batch], Tensor]:
    """Return the loss ``share * distillation + (1 - share) * task`` of a batch.

    Args:
        target: Supplies both losses; without one on labels distillation has it all.
        forward: Runs what learns on a batch.
        teacher: The uncompressed network, which is put in evaluation mode.
        temperature: Softens the outputs compared.
        share: Weight of the distillation.
    """
    teacher.eval()

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            expected = target.forward(teacher, batch)
        outputs = forward(batch)
        learned = target.distillation_loss(outputs, expected, temperature)
        task = target.loss(outputs, target.labels(batch)) if share < 1 else None
        return learned if task is None else share * learned + (1 - share) * task

    return loss


def standard_error(model: nn.Module, target: Target) -> float:
    """Return how far a model's score on the search split is from that on endless data, typically.

    Epochs that differ by less count as equally good, as models do in the one-standard-error rule
    (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3).

    Args:
        model: In evaluation mode.
        target: Supplies data and the scores of samples.

    Returns:
        In units of the score; 0 where that is not a mean over samples.
    """
    device = device_of(model)
    found = []
    with torch.no_grad():
        for batch in target.batches("search"):
            batch = moved(batch, device)
            scores = target.sample_scores(target.forward(model, batch), target.labels(batch))
            if scores is None:
                return 0.0
            found.append(scores)
    samples = torch.cat(found).double()
    return float(samples.std(unbiased=False)) / math.sqrt(len(samples))
