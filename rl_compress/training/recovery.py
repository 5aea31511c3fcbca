"""Recovery: fine-tuning a compressed network with the uncompressed one as its teacher."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import moved
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target, device_of
from rl_compress.training.seeded import seeded

logger = logging.getLogger(__name__)

_LARGEST_GRADIENT = 1.0
"""Norm to which longer gradients are clipped."""


class FinetuningConfig(BaseModel):
    """The `finetuning` section of a job."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(
        default=30, ge=0, description="Passes over the training split; 0 delivers without any."
    )
    batch_size: int = Field(default=64, ge=1, description="Samples per training step.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Largest step size of AdamW.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Decoupled weight decay.")
    distillation: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Weight of the teacher's outputs in the loss; the labels have the rest.",
    )
    temperature: float = Field(default=2.0, gt=0, description="Softens the outputs compared.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many epochs without a better score."
    )
    seed: int = Field(default=0, ge=0, description="Of the samples' order and augmentation.")
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


@dataclass(frozen=True, slots=True)
class FinetuningResult:
    """How fine-tuning went."""

    scores: tuple[float, ...]
    """Score on the search split before, and after each epoch."""
    kept_epoch: int
    """Epoch whose weights were kept; 0 if none was better than the start."""


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    target: Target,
    config: FinetuningConfig,
    *,
    device: torch.device,
    masks: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> FinetuningResult:
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
        teacher: The uncompressed network; only its outputs are used.
        target: Supplies data, losses and score.
        config: How long and how fast.
        device: Where both networks are.
        masks: For each sparse weight, by its full name, which elements stay; the others stay zero.
        progress: Called after each epoch with the epochs done and their number.

    Returns:
        The scores of all epochs and which of them was kept. The same seed gives the same weights.
    """
    teacher.eval()
    student.eval().requires_grad_(True)
    scores = [scored(target, student, "search")]
    kept, kept_epoch, best_epoch = copy.deepcopy(student.state_dict()), 0, 0
    error = standard_error(teacher, target) if config.epochs else 0.0
    course = _Course(student, target, config, masks or {})
    with seeded(config.seed, device):
        for epoch in range(1, config.epochs + 1):
            student.train()
            finite = course.run(epoch, student, teacher, device)
            student.eval()
            if not finite:
                logger.warning(
                    "fine-tuning diverged in epoch %d; epoch %d is kept; "
                    "a smaller finetuning.learning_rate may help",
                    epoch,
                    kept_epoch,
                )
                break
            scores.append(scored(target, student, "search"))
            if _is_better(scores[-1], scores[best_epoch]):
                best_epoch = epoch
            # The best of many noisy scores is mostly luck, and what trained longest, at the lowest
            # rate, the better bet.
            as_good = not _is_better(scores[best_epoch] - error, scores[-1])
            if as_good and _is_better(scores[-1], scores[0]):
                kept, kept_epoch = copy.deepcopy(student.state_dict()), epoch
            progress(epoch, config.epochs)
            if config.patience is not None and epoch - best_epoch >= config.patience:
                break
    student.load_state_dict(kept)
    student.requires_grad_(False)
    return FinetuningResult(tuple(scores), kept_epoch)


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


class _Course:
    """Optimizer, schedule and loss of one fine-tuning."""

    def __init__(
        self,
        student: nn.Module,
        target: Target,
        config: FinetuningConfig,
        masks: Mapping[str, Tensor],
    ) -> None:
        self._target = target
        parameters = dict(student.named_parameters())
        self._masked = [(parameters[n], mask.to(parameters[n])) for n, mask in masks.items()]
        self._config = config
        self._optimizer = torch.optim.AdamW(
            student.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        samples = len(target.split("train"))  # type: ignore[arg-type]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            config.learning_rate,
            total_steps=max(1, config.epochs * -(-samples // config.batch_size)),
        )

    def run(self, epoch: int, student: nn.Module, teacher: nn.Module, device: torch.device) -> bool:
        """Train for one epoch; say whether losses and gradients stayed finite."""
        target = self._target
        for batch in target.batches(
            "train", shuffle_seed=self._config.seed + epoch, batch_size=self._config.batch_size
        ):
            # BatchNorm cannot normalise a lone sample left over at the end.
            if num_samples(batch) == 1 < self._config.batch_size:
                continue
            batch = target.augmented(moved(batch, device))
            with torch.no_grad():
                expected = target.forward(teacher, batch)
            loss = self._loss(target.forward(student, batch), expected, target.labels(batch))
            self._optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
            if not (loss.isfinite() and norm.isfinite()):
                return False
            self._optimizer.step()
            self._schedule.step()
            with torch.no_grad():
                for weight, mask in self._masked:
                    weight.mul_(mask)
        return True

    def _loss(self, outputs: Tensor, expected: Tensor, labels: Tensor) -> Tensor:
        config = self._config
        learned = self._target.distillation_loss(outputs, expected, config.temperature)
        task = self._target.loss(outputs, labels)
        if task is None:
            return learned
        return config.distillation * learned + (1 - config.distillation) * task


def _is_better(score: float, best: float) -> bool:
    return score > best or (math.isnan(best) and not math.isnan(score))
