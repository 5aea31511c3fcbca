"""Recovery: fine-tuning a compressed network with the uncompressed one as its teacher."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from rl_compress.targets.target import Target

logger = logging.getLogger(__name__)


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
    seed: int = Field(default=0, ge=0, description="Of the order of the training samples.")


@dataclass(frozen=True, slots=True)
class FinetuningResult:
    """How fine-tuning went."""

    scores: tuple[float, ...]
    """Score on the search split before, and after each epoch."""
    best_epoch: int
    """Epoch whose weights were kept; 0 if none was better than the start."""


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    target: Target,
    config: FinetuningConfig,
    *,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> FinetuningResult:
    """Train a compressed network on the training split, in place.

    The loss is ``d * T^2 * KL(teacher || student) + (1 - d) * task loss`` with outputs softened by
    the temperature T (Hinton et al., 2015); the best epoch on the search split is kept, so the
    result is never worse there than the start.

    Args:
        student: The compressed network; all its parameters are trained.
        teacher: The uncompressed network; only its outputs are used.
        target: Supplies data, task loss and score.
        config: How long and how fast.
        device: Where both networks are.
        progress: Called after each epoch with the epochs done and their number.
    """
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    scores = [target.score(student, "search")]
    best, best_epoch = copy.deepcopy(student.state_dict()), 0
    optimizer = torch.optim.AdamW(
        student.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    steps = sum(1 for _ in target.batches("train", batch_size=config.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(1, config.epochs * steps)
    )
    for epoch in range(1, config.epochs + 1):
        student.train()
        for inputs, labels in target.batches(
            "train", shuffle_seed=config.seed + epoch, batch_size=config.batch_size
        ):
            inputs, labels = inputs.to(device), labels.to(device)
            with torch.no_grad():
                expected = teacher(inputs)
            loss = _loss(student(inputs), expected, labels, target, config)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        student.eval()
        scores.append(target.score(student, "search"))
        progress(epoch, config.epochs)
        if scores[-1] > scores[best_epoch]:
            best, best_epoch = copy.deepcopy(student.state_dict()), epoch
        if not loss.isfinite():
            logger.warning("fine-tuning diverged in epoch %d; the best epoch is kept", epoch)
            break
        if config.patience and epoch - best_epoch >= config.patience:
            break
    student.load_state_dict(best)
    student.requires_grad_(False).eval()
    return FinetuningResult(tuple(scores), best_epoch)


def _loss(
    outputs: Tensor, expected: Tensor, labels: Tensor, target: Target, config: FinetuningConfig
) -> Tensor:
    temperature = config.temperature
    divergence = nn.functional.kl_div(
        (outputs / temperature).log_softmax(dim=-1),
        (expected / temperature).log_softmax(dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    task = target.loss(outputs, labels)
    if task is None:
        return divergence * temperature**2
    return config.distillation * divergence * temperature**2 + (1 - config.distillation) * task
