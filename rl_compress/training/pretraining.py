"""Pre-training: what is done to the target's weights before anything is compressed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import moved, some_of
from rl_compress.targets.target import Target, device_of
from rl_compress.training.layerwise import find_stages, stage_plan
from rl_compress.training.loop import Course, Judge, Plan, TrainingConfig, task_loss, train


class PretrainingConfig(TrainingConfig):
    """The `pretraining` section of a job."""

    mode: Literal["none", "finetune", "layerwise"] = Field(
        default="none",
        description="`finetune`: train the target on from its weights; `layerwise`: stage by stage "
        "from the inputs on, each with a temporary head, at last all together.",
    )
    fresh: bool = Field(
        default=False, description="Begin with newly initialised weights instead of the target's."
    )
    epochs: int = Field(
        default=30, ge=1, description="Passes over the training split, of the whole network."
    )
    stage_epochs: int = Field(
        default=5, ge=1, description="With `layerwise`: passes for each stage before that."
    )
    stages: list[str] | None = Field(
        default=None,
        min_length=1,
        description="With `layerwise`: layers at whose inputs stages end, in forward order; by "
        "default found, up to eight.",
    )
    lower_stages: Literal["frozen", "slow"] = Field(
        default="frozen", description="What the stages below the one in training do."
    )
    slow_factor: float = Field(
        default=0.1, gt=0, le=1, description="Their learning rate with `slow`, as a share."
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the training split that is not trained on, and decides which epoch "
        "is best.",
    )
    patience: int | None = Field(
        default=10, ge=1, description="Stop after this many epochs without a lower held-out loss."
    )
    seed: int = Field(default=0, ge=0, description="Of samples held out, order and fresh weights.")

    @model_validator(mode="after")
    def _stages_are_for_layerwise(self) -> PretrainingConfig:
        if self.stages is not None and self.mode != "layerwise":
            raise ValueError("stages are for mode: layerwise only")
        return self


def pretrain(
    model: nn.Module,
    target: Target,
    config: PretrainingConfig,
    checkpoints: Path,
    *,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Course]:
    """Train a target's model on its training split, in place, before it is compressed.

    ``layerwise`` follows the stacked training of deep networks (Bengio et al., "Greedy layer-wise
    training of deep networks", NIPS 2006; Belilovsky et al., "Greedy layerwise learning can scale
    to ImageNet", ICML 2019, section 3), with joint training of all layers at the end. After every
    epoch a checkpoint is written whole; called again with the same folder, training goes on after
    the last one, to the same weights as without the interruption.

    Args:
        model: Left in evaluation mode, with the weights of the best epoch.
        target: Supplies the training split and the loss.
        config: How; nothing happens with the mode `none`.
        checkpoints: Folder of the checkpoints, created where needed.
        device: Where the model is trained; it ends on the CPU.
        progress: Hears of epochs done and their largest number.

    Returns:
        How it went, stage by stage, and at the end for the whole network. Scores are losses on the
        samples held out, with a minus.

    Raises:
        ConfigError: The target has no loss, or a stage's layer does not exist.
    """
    if config.mode == "none":
        return []
    model.to(device)
    trained, held_out = _parts(target.split("train"), config.held_out, config.seed)
    _check_loss(model, target, held_out)
    if config.fresh:
        _initialise(model, config.seed)
    plans: list[tuple[str, Plan]] = []
    if config.mode == "layerwise":
        layers = find_stages(model, target.inputs_for(model), config.stages, device)
        for number, layer in enumerate(layers, start=1):
            slow = config.slow_factor if config.lower_stages == "slow" else None
            below = layers[number - 2] if number > 1 else None
            plan = stage_plan(
                model, target, layer, below, slow, config.stage_epochs, device, number
            )
            plans.append((f"stage-{number}", plan))
    loss = partial(task_loss, target, model)
    plans.append(
        ("whole", Plan(section="pretraining", network=model, loss=loss, epochs=config.epochs))
    )
    total, before, courses = sum(plan.epochs for _, plan in plans), 0, []
    for name, plan in plans:
        score = partial(_score, plan, target, held_out)
        course = train(
            plan,
            target,
            trained,
            config,
            Judge(start=-math.inf, score=score),
            checkpoint=checkpoints / f"{name}.pt",
            progress=lambda epoch, before=before: progress(before + epoch, total),  # type: ignore[misc]
        )
        courses.append(course)
        before += plan.epochs
    model.cpu()
    return courses


def _parts(dataset: Any, share: float, seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """Return what is trained on, and a share that is held out, at least a sample."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    count = max(1, round(share * len(dataset)))
    if isinstance(dataset, TensorDataset):
        return some_of(dataset, order[count:]), some_of(dataset, order[:count])
    return Subset(dataset, order[count:].tolist()), Subset(dataset, order[:count].tolist())


def _score(plan: Plan, target: Target, held_out: Dataset[Any]) -> float:
    """Return minus the mean loss on the samples held out."""
    total, count, device = 0.0, 0, device_of(plan.network)
    with torch.no_grad():
        for batch in target.batches_of(held_out):
            size = num_samples(batch)
            total += float(plan.loss(moved(batch, device))) * size
            count += size
    return -total / count


def _check_loss(model: nn.Module, target: Target, dataset: Dataset[Any]) -> None:
    batch = moved(next(target.batches_of(dataset, batch_size=2)), device_of(model))
    with torch.no_grad():
        loss = target.loss(target.forward(model.eval(), batch), target.labels(batch))
    if loss is None:
        raise ConfigError(
            "pretraining.mode: the target has no loss on labels to train with (Target.loss returns "
            "None); implement it, or choose mode: none"
        )


def _initialise(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, as their layers do when they are made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
