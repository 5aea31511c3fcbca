"""Iterative pruning of the delivered model: channels fade out while the others take over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rl_compress.importance.contribution import contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.importance import ranked
from rl_compress.importance.units import Units
from rl_compress.model.axes import named_tensors
from rl_compress.model.groups import LayerGroup
from rl_compress.space.search_space import Amounts
from rl_compress.targets.batches import Batch
from rl_compress.targets.state import forward_with
from rl_compress.targets.target import Target, device_of
from rl_compress.training.loop import Plan, Steps, seeded, training_batches
from rl_compress.training.recovery import distillation

_TEMPERATURE = 2.0
_BATCH_SIZE = 64


def fade_channels(
    model: nn.Module,
    teacher: nn.Module,
    target: Target,
    groups: Sequence[LayerGroup],
    widths: Amounts,
    config: ContributionConfig,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[nn.Module, list[npt.NDArray[np.int64]]]:
    """Train a network while the channels that contribute least fade out of each group.

    Contribution pruning (:mod:`rl_compress.importance.contribution`) with a given number of units
    to keep in the place of the threshold: in every iteration the ``widths[g]`` units of group g
    with the largest cumulative contribution are kept, or restored, the keep-ratios of the others
    shrink by ``alpha(t)``, and the network is trained for ``finetune_steps`` with the ratios in
    force, towards the uncompressed network's outputs.

    Args:
        model: In evaluation mode, on any device; left as it is.
        teacher: The uncompressed network, on the same device.
        target: Supplies calibration and training data.
        groups: Channel groups.
        widths: Units to keep in each; what follows, such as bits, does not matter here.
        config: Factor, number of iterations and of training steps.
        progress: Hears of iterations done, and of their number.

    Returns:
        The network as trained, without the ratios, and for each group its units from most to least
        contributing; the first ``widths[g]`` are those to keep.
    """
    units = Units.channels(model, groups)
    bounds, seeds = np.cumsum(units.sizes)[:-1], itertools.count()

    def keep(contributions: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        orders = map(ranked, np.split(contributions, bounds))
        kept = zip(orders, widths[: len(groups)], strict=True)
        return np.concatenate(
            [np.isin(np.arange(len(order)), order[:width]) for order, width in kept]
        )

    def train(network: nn.Module, multipliers: dict[str, Tensor]) -> None:
        train_scaled(network, multipliers, teacher, target, config, seed=next(seeds))

    found = contribution_pruning(
        model, units, target, config, keep=keep, train=train, progress=progress
    )
    return found.model, [ranked(part) for part in found.by_group()]


def train_scaled(
    model: nn.Module,
    multipliers: dict[str, Tensor],
    teacher: nn.Module,
    target: Target,
    config: ContributionConfig,
    *,
    seed: int = 0,
) -> None:
    """Take some training steps with keep-ratios in force, towards the uncompressed outputs.

    Args:
        model: Its weights are trained in place; left in evaluation mode.
        multipliers: What each tensor is multiplied by.
        teacher: The uncompressed network.
        target: Supplies the training split.
        config: How many steps, and how large.
        seed: Of the order of the samples and how they are varied.
    """
    device = device_of(model)

    def scaled(batch: Batch) -> Tensor:
        tensors = named_tensors(model)
        changed = {name: tensors[name] * ratio for name, ratio in multipliers.items()}
        return forward_with(target, model, changed, batch)

    plan = Plan(
        section="contribution",
        network=model,
        loss=distillation(target, scaled, teacher, _TEMPERATURE),
        epochs=1,
    )
    batches = training_batches(target, target.split("train"), _BATCH_SIZE, seed, device)
    with seeded(seed, device):
        Steps(plan, config.learning_rate).take(itertools.islice(batches, config.finetune_steps))
    model.requires_grad_(False)
