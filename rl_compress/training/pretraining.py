"""Pre-training: what is done to the target's weights before anything is compressed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from rl_compress.errors import ConfigError
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target
from rl_compress.training.layerwise import find_stages, stage_plan
from rl_compress.training.training import Curve, HeldOut, Plan, run_plan


class PretrainingConfig(BaseModel):
    """The `pretraining` section of a job."""

    model_config = ConfigDict(extra="forbid")

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
    batch_size: int = Field(default=64, ge=1, description="Samples per training step.")
    learning_rate: float = Field(
        default=3e-3, gt=0, allow_inf_nan=False, description="Largest step size of AdamW."
    )
    weight_decay: float = Field(
        default=1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay."
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


@dataclass(frozen=True, slots=True)
class PretrainingResult:
    """How pre-training went."""

    curves: tuple[Curve, ...]
    """Of each stage and, at the end, of the whole network."""


def pretrain(
    model: nn.Module,
    target: Target,
    config: PretrainingConfig,
    checkpoints: Path,
    *,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> PretrainingResult:
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

    Raises:
        ConfigError: The target has no loss, or a stage's layer does not exist.
    """
    if config.mode == "none":
        return PretrainingResult(())
    model.to(device)
    held_out = HeldOut.of(target, config.held_out, config.seed)
    _check_loss(model, target, held_out, device)
    if config.fresh:
        _initialise(model, config.seed)
    plans: list[Plan] = []
    if config.mode == "layerwise":
        layers = find_stages(model, target.inputs_for(model), config.stages, device)
        for number, layer in enumerate(layers, start=1):
            slow = config.slow_factor if config.lower_stages == "slow" else None
            below = layers[number - 2] if number > 1 else None
            plans.append(
                stage_plan(model, target, layer, below, slow, config.stage_epochs, device, number)
            )
    plans.append(Plan.whole(model, config.epochs))
    total, before, curves = sum(plan.epochs for plan in plans), 0, []

    def advance(epoch: int) -> None:
        progress(before + epoch, total)

    for plan in plans:
        curves.append(
            run_plan(plan, target, held_out, config, checkpoints, device=device, progress=advance)
        )
        before += plan.epochs
    model.requires_grad_(False).cpu().eval()
    return PretrainingResult(tuple(curves))


def _check_loss(model: nn.Module, target: Target, held_out: HeldOut, device: torch.device) -> None:
    batch = moved(next(iter(held_out.batches(target, 2))), device)
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
