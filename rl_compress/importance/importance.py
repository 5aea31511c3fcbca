"""How much what may be removed matters: what ranks it before the less important is cut.

An importance scores single weights, and a unit's score is then made from those of its weights; or
it scores units themselves, and is for channels only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.importance.evidence import Evidence
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup
from rl_compress.registry import IMPORTANCES, Part, running
from rl_compress.space.space_config import PruningConfig
from rl_compress.targets.target import Target

Scores = npt.NDArray[np.float64]

_KEY = "space.pruning.importance"

_BLOCK = 1 << 17
"""Weights that are read at once: what is made of them fits a processor's cache."""


class Importance(Part):
    """Ranks weights, or units of them; one of its two methods is to be implemented."""

    needs: ClassVar[Literal["nothing", "data", "contributions"]] = "nothing"
    """What it looks at beside the weights: calibration data, or what contribution pruning found."""

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        """Score the single weights of a tensor, higher being more important.

        Args:
            name: The tensor's.
            weight: Of a convolution or linear layer, float64 on the CPU.
            evidence: What else may be looked at.

        Returns:
            Scores of the weight's shape.

        Raises:
            ConfigError: It scores whole channels only.
        """
        raise ConfigError(
            f"{_KEY}: {IMPORTANCES.name_of(type(self))} ranks whole channels; with "
            f"space.pruning.structure other than channels choose one that ranks weights, such as l2"
        )

    def weights(self, evidence: Evidence) -> dict[str, Tensor]:
        """Score the single weights of all convolutions and linear layers, by name."""
        found = {}
        for name, weight in evidence.weights.items():
            with running(self, _KEY):
                found[name] = self.weight(name, weight, evidence)
            if getattr(found[name], "shape", None) != weight.shape:
                raise ConfigError(
                    f"{_KEY}: weight() of {type(self).__name__} must return scores of the shape "
                    f"{tuple(weight.shape)} of {name}"
                )
        return found

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """Score the units of channel groups, for each of them shape ``(num_units,)``.

        By default it is the sum of their weights' scores, in each tensor relative to the mean.
        """
        scores = self.weights(evidence)
        return [over_axes(scores, group, _sums) for group in groups]


def make_importance(config: PruningConfig, target: Target | None) -> Importance:
    """Return the importance that a job asks for.

    Args:
        config: Its name and options.
        target: Supplies calibration data.

    Raises:
        ConfigError: There is no such importance or option, or no data that it needs.
    """
    made, options = IMPORTANCES.load(config.importance, config.importance_options, key=_KEY)
    if made.needs != "nothing" and target is None:
        raise ConfigError(f"{_KEY}: {config.importance} needs a target with data")
    return made(options)


def ranked(scores: Scores) -> npt.NDArray[np.int64]:
    """Return the indices of scores from highest to lowest; of equals the first comes first."""
    return np.argsort(-scores, kind="stable")


def over_axes(
    tensors: Mapping[str, Tensor], group: LayerGroup, of_units: Callable[[Tensor, Axis], Tensor]
) -> Scores:
    """Add up what each weight tensor says of the units, relative to its mean.

    Args:
        tensors: Weights, or their scores.
        group: A prunable group.
        of_units: From a tensor and an axis of it to the units' scores, shape ``(num_units,)``.
    """
    total = np.zeros(group.num_units)
    for axis in group.axes:
        tensor = tensors.get(axis.tensor)
        if tensor is None or tensor.ndim < 2:
            continue  # biases and norms scale with the weights they follow
        per_unit = of_units(tensor.detach().cpu(), axis).numpy()
        total += per_unit / max(per_unit.mean(), np.finfo(np.float64).tiny)
    return total


def added_up(tensor: Tensor, axis: Axis, of_weights: Callable[[Tensor], Tensor]) -> Tensor:
    """Add up, in float64, something of all weights of each unit, in the order of memory."""
    length = tensor.shape[axis.axis]
    values = tensor.reshape(math.prod(tensor.shape[: axis.axis]), length, -1)
    if len(values) == 1:
        blocks = values[0].split(max(1, _BLOCK // max(values[0, 0].numel(), 1)))
        places = torch.cat([of_weights(block.double()).sum(dim=1) for block in blocks])
    else:
        sums = torch.zeros(values.shape[1:], dtype=torch.float64)
        for block in values.split(max(1, _BLOCK // max(sums.numel(), 1))):
            sums += of_weights(block.double()).sum(dim=0)
        places = sums.sum(dim=1)
    return places[torch.from_numpy(axis.positions)].sum(dim=1)


def _sums(tensor: Tensor, axis: Axis) -> Tensor:
    return added_up(tensor, axis, lambda values: values)


def unit_sums(scores: Tensor, units: Tensor, num_units: int) -> Scores:
    """Add up scores of single weights by unit, shape ``(num_units,)``.

    Args:
        scores: Of each weight.
        units: The unit of each weight, same shape; -1: none.
        num_units: Number of units.
    """
    total = torch.zeros(num_units + 1, dtype=torch.float64)
    # Elements of no unit, -1, are added up behind all units.
    places = torch.where(units < 0, num_units, units).reshape(-1)
    return total.scatter_add_(0, places, scores.double().reshape(-1))[:-1].numpy()
