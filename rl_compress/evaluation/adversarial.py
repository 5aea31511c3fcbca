"""Adversarial inputs: small changes of a model's inputs, found by its gradient, that mislead it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from rl_compress.errors import ConfigError
from rl_compress.evaluation.straight_through import straight_through
from rl_compress.model.nested import joined, mapped
from rl_compress.registry import Part
from rl_compress.targets.batches import Batch, in_memory, moved
from rl_compress.targets.few import detached
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target, device_of

Loss = Callable[[nn.Module, Any], Tensor]
"""``(model, batch) -> loss``, a scalar."""


class RobustnessConfig(Part.Config):
    """How strong the attack is that the score `robust_accuracy` is measured under."""

    epsilon: float = Field(
        default=0.03,
        gt=0.0,
        le=1.0,
        allow_inf_nan=False,
        description=(
            "Largest change of any input value, as a fraction of the data's range (its maximum "
            "minus its minimum over the split)."
        ),
    )
    steps: int = Field(
        default=1, ge=1, description="Gradient steps: 1 is FGSM, more are PGD from a random start."
    )
    step_size: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        allow_inf_nan=False,
        description=(
            "Step of PGD, as a fraction of the data's range; by default 2.5 epsilon / steps."
        ),
    )
    seed: int = Field(default=0, ge=0, description="Of PGD's random start.")


@dataclass(frozen=True, slots=True)
class Ball:
    """Which inputs the attacker may choose."""

    epsilon: float
    """Largest change of any input value, in the inputs' own units."""
    low: float
    """Smallest input value there is."""
    high: float
    """Largest input value there is."""

    def project(self, changed: Tensor, inputs: Tensor) -> Tensor:
        """Return the nearest inputs that are allowed."""
        near = torch.maximum(torch.minimum(changed, inputs + self.epsilon), inputs - self.epsilon)
        return near.clamp(self.low, self.high)


def fgsm(model: nn.Module, inputs: Tensor, loss: Loss, ball: Ball) -> Tensor:
    """Change inputs by the fast gradient sign method.

    ``x + epsilon * sign(dL/dx)``, clamped to the data's range (Goodfellow, Shlens and Szegedy,
    "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4).

    Args:
        model: In evaluation mode, on the device of the inputs.
        inputs: Floating point, shape ``(batch, …)``.
        loss: Of the model on changed inputs, to be raised.
        ball: The changes allowed.

    Returns:
        The changed inputs, detached.
    """
    slope = _input_gradient(model, inputs, loss)
    return ball.project(inputs + ball.epsilon * slope.sign(), inputs)


def pgd(
    model: nn.Module,
    inputs: Tensor,
    loss: Loss,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Change inputs by projected gradient ascent from a random point of the ball.

    ``x <- project(x + step_size * sign(dL/dx))``, repeated (Madry et al., "Towards Deep Learning
    Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1).

    Args:
        model: In evaluation mode, on the device of the inputs.
        inputs: Floating point, shape ``(batch, …)``.
        loss: Of the model on changed inputs, to be raised.
        ball: The changes allowed.
        steps: Number of steps.
        step_size: In the inputs' own units.
        generator: On the CPU; draws the start.

    Returns:
        The changed inputs, detached.
    """
    noise = torch.rand(inputs.shape, generator=generator).to(inputs)
    changed = ball.project(inputs + ball.epsilon * (2.0 * noise - 1.0), inputs)
    for _ in range(steps):
        slope = _input_gradient(model, changed, loss)
        changed = ball.project(changed + step_size * slope.sign(), inputs)
    return changed


class InputAttack:
    """FGSM or PGD on one split of a target, white-box: against whatever model is given."""

    def __init__(
        self, target: Target, config: RobustnessConfig, *, key: str, split: str = "search"
    ) -> None:
        """Look at the range of the split's inputs.

        Args:
            target: Supplies the split, the loss and the score.
            config: How strong the attack is.
            key: Name of the job key or option that asked for it, for messages.
            split: Name of the split.

        Raises:
            ConfigError: The inputs are not one tensor of floating point, or all equal.
        """
        self._target = target
        self._config = config
        self._key = key
        self._split = split
        ranges = []
        for batch in target.batches(split):
            inputs = self.attacked(batch)
            ranges.append((float(inputs.min()), float(inputs.max())))
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if not 0 < high - low < math.inf:
            raise ConfigError(f"{key}: the target's inputs range from {low} to {high}")
        self.ball = Ball(config.epsilon * (high - low), low, high)
        self._step_size = (config.step_size or 2.5 * config.epsilon / config.steps) * (high - low)

    def batches(self, model: nn.Module) -> Iterator[tuple[Batch, Batch]]:
        """Yield batches, clean and with changed inputs, on the model's device."""
        loss = loss_of(self._target, self._key)
        generator = torch.Generator().manual_seed(self._config.seed)
        device = device_of(model)
        for batch in self._target.batches(self._split):
            batch = moved(batch, device)
            inputs = self.attacked(batch)

            def loss_on(
                model: nn.Module, changed: Tensor, batch: Batch = batch, inputs: Tensor = inputs
            ) -> Tensor:
                return loss(model, _exchanged(batch, inputs, changed))

            if self._config.steps == 1:
                changed = fgsm(model, inputs, loss_on, self.ball)
            else:
                changed = pgd(
                    model,
                    inputs,
                    loss_on,
                    self.ball,
                    steps=self._config.steps,
                    step_size=self._step_size,
                    generator=generator,
                )
            yield batch, _exchanged(batch, inputs, changed)

    def attacked(self, batch: Batch) -> Tensor:
        """Return the input of a batch that an attack may change."""
        inputs = self._target.input_tensors(batch)
        found = [tensor for tensor in inputs if tensor.is_floating_point()]
        if len(found) == 1:
            return found[0]
        have = ", ".join(str(tensor.dtype) for tensor in inputs)
        raise ConfigError(
            f"{self._key}: FGSM and PGD need floating-point inputs, one tensor of them, but the "
            f"target's are {have}; choose something else"
        )

    def score(self, model: nn.Module) -> float:
        """Return the target's own score of a model on inputs that are crafted against it.

        Raises:
            ConfigError: The target has no loss, or does not score the data that it is asked to.
        """
        return self.score_on(
            model, [moved(changed, torch.device("cpu")) for _, changed in self.batches(model)]
        )

    def score_on(self, model: nn.Module, batches: list[Batch]) -> float:
        """Return the target's own score of a model on other samples than the split's.

        Args:
            model: In evaluation mode.
            batches: On the CPU.

        Raises:
            ConfigError: The target does not read what it scores by ``split`` or ``batches``.
        """
        data = in_memory(joined(batches))
        other = detached(self._target)
        asked = []

        def split(name: str) -> Dataset[Any]:
            asked.append(name)
            return data if name == self._split else self._target.split(name)

        def read(name: str, **options: Any) -> Iterator[Batch]:
            return Target.batches(other, name, **options)

        # On the instance, where a subclass's own methods do not come before them.
        vars(other).update(split=split, batches=read)
        score = scored(other, model, self._split)
        if self._split not in asked:
            raise ConfigError(
                f"{self._key}: the target's score() must read its data by self.batches or "
                f"self.split, or it cannot be measured under attack"
            )
        return score


def loss_of(target: Target, key: str) -> Loss:
    """Return a target's loss of a model on a batch; see :func:`task_loss`."""
    return lambda model, batch: task_loss(target, key, target.forward(model, batch), batch)


def task_loss(target: Target, key: str, outputs: Tensor, batch: Batch) -> Tensor:
    """Return a target's loss against the labels of a batch.

    Args:
        target: May lack one.
        key: Name of the job key or option that needs it, for the message.
        outputs: Of a model on the batch.
        batch: Has the labels.

    Raises:
        ConfigError: The target has no loss.
    """
    value = target.loss(outputs, target.labels(batch))
    if value is None:
        raise ConfigError(
            f"{key}: an attack by gradient needs the target's loss(outputs, labels); "
            f"implement it in {type(target).__name__}"
        )
    return value


def _exchanged(batch: Batch, inputs: Tensor, changed: Tensor) -> Batch:
    return mapped(lambda tensor: changed if tensor is inputs else tensor, batch)


def _input_gradient(model: nn.Module, inputs: Tensor, loss: Loss) -> Tensor:
    with torch.enable_grad(), straight_through(model):
        leaf = inputs.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(model, leaf), leaf)
    return slope
