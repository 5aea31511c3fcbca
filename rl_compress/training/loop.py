"""The training loop: steps, epochs, what is kept of them, and checkpoints to go on from."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from rl_compress.model.nested import num_samples
from rl_compress.runs.written import whole
from rl_compress.targets.batches import Batch, moved
from rl_compress.targets.target import Target, device_of

logger = logging.getLogger(__name__)

_LARGEST_GRADIENT = 1.0
"""Norm to which longer gradients are clipped."""


class TrainingConfig(BaseModel):
    """How a section of a job trains."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(default=30, ge=1, description="Passes over the training split.")
    batch_size: int = Field(default=64, ge=1, description="Samples per training step.")
    learning_rate: float = Field(
        default=3e-3, gt=0, allow_inf_nan=False, description="Largest step size of AdamW."
    )
    weight_decay: float = Field(
        default=1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many epochs without a better score."
    )
    seed: int = Field(default=0, ge=0, description="Of the samples' order and augmentation.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One network to train, towards what, for so many epochs."""

    section: str
    """The job's section that says how, for messages."""
    network: nn.Module
    """What is trained; it may hold another's layers, which are trained too then."""
    loss: Callable[[Batch], Tensor]
    """Of a batch on the network's device."""
    epochs: int
    rates: Sequence[tuple[Sequence[nn.Parameter], float]] | None = None
    """Parameters to train, with their learning rate relative to the job's; by default all."""
    frozen: Sequence[nn.Module] = ()
    """Modules that stay in evaluation mode."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """For each sparse weight, by its full name, which elements stay; the others stay zero."""


class Steps:
    """Takes steps of AdamW down a plan's loss, with clipped gradients."""

    def __init__(
        self, plan: Plan, learning_rate: float, weight_decay: float = 0.01, total: int | None = None
    ) -> None:
        """Prepare the network: what the plan trains gets gradients, the rest none.

        Args:
            plan: What to train.
            learning_rate: Largest step size.
            weight_decay: Decoupled weight decay.
            total: Number of steps of a one-cycle learning rate; it is constant without.
        """
        self._plan = plan
        groups = plan.rates or [(list(plan.network.parameters()), 1.0)]
        rates = [learning_rate * share for _, share in groups]
        self._trained = [parameter for parameters, _ in groups for parameter in parameters]
        plan.network.requires_grad_(False)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        named = dict(plan.network.named_parameters())
        self._masked = [(named[name], mask.to(named[name])) for name, mask in plan.masks.items()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate}
                for (parameters, _), rate in zip(groups, rates, strict=True)
            ],
            weight_decay=weight_decay,
        )
        schedules = torch.optim.lr_scheduler
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            schedules.ConstantLR(self.optimizer, factor=1.0)
            if total is None
            else schedules.OneCycleLR(self.optimizer, rates, total_steps=max(1, total))
        )

    def take(self, batches: Iterable[Batch]) -> float:
        """Take a step for each batch; the network is left in evaluation mode.

        Returns:
            The mean loss of the samples; NaN if a loss or gradient was not finite, which ends it.
        """
        plan, total, count = self._plan, 0.0, 0
        plan.network.train()
        for module in plan.frozen:
            module.eval()
        for batch in batches:
            loss = plan.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._trained, _LARGEST_GRADIENT)
            if not (loss.isfinite() and norm.isfinite()):
                total = math.nan
                break
            self.optimizer.step()
            self.schedule.step()
            with torch.no_grad():
                for weight, mask in self._masked:
                    weight.mul_(mask)
            size = num_samples(batch)
            total, count = total + float(loss.detach()) * size, count + size
        plan.network.eval()
        return total / max(count, 1)


@dataclass(slots=True)
class Course:
    """How a training went, or has gone so far."""

    scores: list[float]
    """Before it, and after each epoch; higher is better."""
    kept: dict[str, Any]
    """The weights to end with."""
    losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch."""
    best_epoch: int = 0
    kept_epoch: int = 0
    """Epoch of the weights to end with, from 1; 0 is the start."""

    @property
    def epoch(self) -> int:
        """Return the number of epochs done."""
        return len(self.scores) - 1

    def note(self, score: float, network: nn.Module, tolerance: float | None) -> None:
        """Take down an epoch; see :func:`train` for which is kept."""
        self.scores.append(score)
        if _is_better(score, self.scores[self.best_epoch]):
            self.best_epoch = self.epoch
        if tolerance is None:
            keep = self.best_epoch == self.epoch
        else:
            keep = not _is_better(self.scores[self.best_epoch] - tolerance, score)
            keep = keep and _is_better(score, self.scores[0])
        if keep:
            self.kept, self.kept_epoch = copy.deepcopy(network.state_dict()), self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What epochs are measured by."""

    start: float
    """Score before training."""
    score: Callable[[], float]
    """Measures the network, which is in evaluation mode; higher is better."""
    tolerance: float | None = None
    """None keeps the best epoch; otherwise the last one that is worse than it by no more than this,
    and better than the start. The best of many noisy scores is mostly luck, and what trained
    longest, at the lowest rate, the better bet."""


def train(
    plan: Plan,
    target: Target,
    dataset: Dataset[Any],
    settings: TrainingConfig,
    judge: Judge,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int], None] = lambda _epoch: None,
) -> Course:
    """Train one network, in place, from its checkpoint on if there is one.

    AdamW with a one-cycle learning rate and clipped gradients. Training ends early after
    ``patience`` epochs without a better one, and when a loss or gradient is not finite.

    Args:
        plan: What to train; left in evaluation mode, with the weights of the epoch kept.
        target: Makes batches and varies them.
        dataset: Samples to train on.
        settings: How.
        judge: Decides which epoch is kept.
        checkpoint: File that is written whole after every epoch, and taken up if it exists.
        progress: Hears of epochs done.

    Returns:
        How it went. The same seed gives the same weights, with an interruption or without.
    """
    device = device_of(plan.network)
    per_epoch = -(-len(dataset) // settings.batch_size)  # type: ignore[arg-type]
    steps = Steps(
        plan, settings.learning_rate, settings.weight_decay, total=plan.epochs * per_epoch
    )
    course = Course([judge.start], copy.deepcopy(plan.network.state_dict()))
    if checkpoint is not None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=device, weights_only=True)
            _load(state, course, plan.network, steps)
        progress(course.epoch)
    with seeded(settings.seed, device):
        while not _is_finished(course, plan, settings.patience):
            epoch = course.epoch + 1
            # Seeded by epoch, random numbers need no checkpoint.
            again = seeded(settings.seed * 1_000_003 + epoch - 1, device)
            with again if checkpoint is not None else nullcontext():
                batches = training_batches(
                    target, dataset, settings.batch_size, settings.seed + epoch, device
                )
                course.losses.append(steps.take(batches))
                if math.isnan(course.losses[-1]):
                    continue
                course.note(judge.score(), plan.network, judge.tolerance)
            if checkpoint is not None:
                with whole(checkpoint) as file:
                    torch.save(_state(course, plan.network, steps), file)
            progress(epoch)
    plan.network.load_state_dict(course.kept)
    plan.network.requires_grad_(False)
    plan.network.eval()
    return course


def task_loss(target: Target, network: nn.Module, batch: Batch) -> Tensor:
    """Return a target's loss on the labels of a batch, of a target that has one."""
    loss = target.loss(target.forward(network, batch), target.labels(batch))
    assert loss is not None, "checked before training begins"
    return loss


def training_batches(
    target: Target, dataset: Dataset[Any], batch_size: int, seed: int, device: torch.device
) -> Iterator[Batch]:
    """Yield a dataset's batches as they are trained on: in an order of their own, and varied."""
    for batch in target.batches_of(dataset, shuffle_seed=seed, batch_size=batch_size):
        # BatchNorm cannot normalise a lone sample left over at the end.
        if num_samples(batch) > 1 or batch_size == 1:
            yield target.augmented(moved(batch, device))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and put them back afterwards.

    Dropout and augmentations draw from them, but they are the caller's.

    Args:
        seed: What they start from.
        device: Where the training is; its generator is seeded too.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _is_better(score: float, best: float) -> bool:
    """Say whether a score is higher; any is better than none."""
    return score > best or (math.isnan(best) and not math.isnan(score))


def _is_finished(course: Course, plan: Plan, patience: int | None) -> bool:
    if course.losses and not math.isfinite(course.losses[-1]):
        logger.warning(
            "%s: the training diverged in epoch %d; epoch %d is kept; "
            "a smaller %s.learning_rate may help",
            plan.section,
            len(course.losses),
            course.kept_epoch,
            plan.section,
        )
        return True
    stuck = patience is not None and course.epoch - course.best_epoch >= patience
    return course.epoch >= plan.epochs or stuck


def _state(course: Course, network: nn.Module, steps: Steps) -> dict[str, Any]:
    """Return all that a later process needs to go on."""
    return {
        "network": network.state_dict(),
        "optimizer": steps.optimizer.state_dict(),
        "schedule": steps.schedule.state_dict(),
        "best": course.kept,
        "best_epoch": course.best_epoch,
        "losses": course.losses,
        "held_out_losses": [-score for score in course.scores[1:]],
    }


def _load(state: dict[str, Any], course: Course, network: nn.Module, steps: Steps) -> None:
    """Go on after :func:`_state`."""
    network.load_state_dict(state["network"])
    steps.optimizer.load_state_dict(state["optimizer"])
    steps.schedule.load_state_dict(state["schedule"])
    course.kept, course.losses = state["best"], state["losses"]
    course.best_epoch = course.kept_epoch = state["best_epoch"]
    course.scores += [-loss for loss in state["held_out_losses"]]
