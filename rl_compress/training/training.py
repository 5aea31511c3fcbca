"""Resumable training with early stopping on held-out samples of the training split."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import Batch, moved, some_of
from rl_compress.targets.target import Target
from rl_compress.training.seeded import seeded

logger = logging.getLogger(__name__)

_LARGEST_GRADIENT = 1.0
"""Norm to which longer gradients are clipped."""


class Settings(Protocol):
    """What training needs to know of a job's section."""

    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Curve:
    """How one plan went, epoch by epoch."""

    name: str
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    held_out_losses: tuple[float, ...]
    """Mean loss on the samples held out, after each epoch."""
    best_epoch: int
    """Epoch whose weights were kept, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One network to train, for so many epochs."""

    name: str
    network: nn.Module
    """What is trained; it holds the model's own layers, so they are trained too."""
    rates: list[tuple[list[nn.Parameter], float]]
    """Parameters to train, with their learning rate relative to the job's."""
    frozen: list[nn.Module]
    """Modules that stay in evaluation mode."""
    epochs: int

    @classmethod
    def whole(cls, model: nn.Module, epochs: int) -> Plan:
        """Return the plan to train all of a model."""
        return cls(
            name="whole",
            network=model,
            rates=[(list(model.parameters()), 1.0)],
            frozen=[],
            epochs=epochs,
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The training split in two parts."""

    trained: Dataset[Any]
    held_out: Dataset[Any]

    @classmethod
    def of(cls, target: Target, share: float, seed: int) -> HeldOut:
        """Hold out a share of the training split, at least a sample."""
        dataset: Any = target.split("train")
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        count = max(1, round(share * len(dataset)))
        return cls(_part(dataset, order[count:]), _part(dataset, order[:count]))

    def batches(self, target: Target, batch_size: int) -> Iterator[Batch]:
        """Yield the samples held out."""
        return target.batches_of(self.held_out, batch_size=batch_size)


def run_plan(
    plan: Plan,
    target: Target,
    data: HeldOut,
    settings: Settings,
    checkpoints: Path,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda _epoch: None,
) -> Curve:
    """Train one network, from its last checkpoint on.

    AdamW with a one-cycle learning rate and clipped gradients. The weights of the epoch with the
    least held-out loss are kept; training ends early after ``patience`` epochs without a lesser
    one, or when a loss is not finite.

    Args:
        plan: What to train.
        target: Supplies the loss.
        data: The two parts of the training split.
        settings: How.
        checkpoints: Folder; the plan's file in it is written whole after every epoch.
        device: Where the network is.
        progress: Hears of epochs done.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    course = _Course(plan, target, data, settings, device)
    file = checkpoints / f"{plan.name}.pt"
    if file.exists():
        course.load(torch.load(file, map_location=device, weights_only=True))
    progress(course.epoch)
    while not course.finished(settings.patience):
        # Seeded by epoch, random numbers need no checkpoint.
        with seeded(settings.seed * 1_000_003 + course.epoch, device):
            course.run_epoch()
        unfinished = file.with_suffix(".tmp")
        torch.save(course.state(), unfinished)
        unfinished.replace(file)
        progress(course.epoch)
    plan.network.load_state_dict(course.best)
    plan.network.eval()
    return Curve(plan.name, tuple(course.losses), tuple(course.held_out_losses), course.best_epoch)


class _Course:
    """Optimizer, schedule, curves and the best weights so far."""

    def __init__(
        self, plan: Plan, target: Target, data: HeldOut, settings: Settings, device: torch.device
    ) -> None:
        self._plan, self._target, self._data = plan, target, data
        self._settings, self._device = settings, device
        plan.network.requires_grad_(False)
        for parameters, _ in plan.rates:
            for parameter in parameters:
                parameter.requires_grad_(True)
        rates = [settings.learning_rate * share for _, share in plan.rates]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate}
                for (parameters, _), rate in zip(plan.rates, rates, strict=True)
            ],
            weight_decay=settings.weight_decay,
        )
        steps = -(-len(data.trained) // settings.batch_size)  # type: ignore[arg-type]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rates, total_steps=max(1, plan.epochs * steps)
        )
        self.epoch = self.best_epoch = 0
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []
        self.best: dict[str, Any] = copy.deepcopy(plan.network.state_dict())

    def finished(self, patience: int | None) -> bool:
        """Say whether all epochs are done, or further ones are not worth it."""
        if self.losses and not math.isfinite(self.losses[-1]):
            logger.warning(
                "pre-training diverged in epoch %d; epoch %d is kept; a smaller "
                "pretraining.learning_rate may help",
                self.epoch,
                self.best_epoch,
            )
            return True
        stuck = patience is not None and self.epoch - self.best_epoch >= patience
        return self.epoch >= self._plan.epochs or stuck

    def run_epoch(self) -> None:
        """Train on all samples once, then measure on those held out."""
        network, settings = self._plan.network, self._settings
        network.train()
        for module in self._plan.frozen:
            module.eval()
        total, count = 0.0, 0
        for batch in self._target.batches_of(
            self._data.trained,
            shuffle_seed=settings.seed + self.epoch + 1,
            batch_size=settings.batch_size,
        ):
            # BatchNorm cannot normalise a lone sample left over at the end.
            size = num_samples(batch)
            if size == 1 < settings.batch_size:
                continue
            loss = self._loss(self._target.augmented(moved(batch, self._device)))
            self._optimizer.zero_grad()
            loss.backward()
            trained = [p for parameters, _ in self._plan.rates for p in parameters]
            nn.utils.clip_grad_norm_(trained, _LARGEST_GRADIENT)
            self._optimizer.step()
            self._schedule.step()
            total, count = total + float(loss.detach()) * size, count + size
        network.eval()
        self.epoch += 1
        self.losses.append(total / max(count, 1))
        self.held_out_losses.append(self._held_out_loss())
        earlier = self.held_out_losses[:-1]
        if self.held_out_losses[-1] < min(earlier, default=math.inf):
            self.best, self.best_epoch = copy.deepcopy(network.state_dict()), self.epoch

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on."""
        return {
            "network": self._plan.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "losses": self.losses,
            "held_out_losses": self.held_out_losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on after :meth:`state`."""
        self._plan.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.losses, self.held_out_losses = state["losses"], state["held_out_losses"]
        self.epoch = len(self.losses)

    def _held_out_loss(self) -> float:
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self._data.batches(self._target, self._target.batch_size):
                size = num_samples(batch)
                total += float(self._loss(moved(batch, self._device))) * size
                count += size
        return total / count

    def _loss(self, batch: Batch) -> Tensor:
        outputs = self._target.forward(self._plan.network, batch)
        loss = self._target.loss(outputs, self._target.labels(batch))
        assert loss is not None, "checked before training begins"
        return loss


def _part(dataset: Any, indices: Tensor) -> Dataset[Any]:
    if isinstance(dataset, TensorDataset):
        return some_of(dataset, indices)
    return Subset(dataset, indices.tolist())
