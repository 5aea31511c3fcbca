"""How much each unit of a group matters: what ranks units before the less important are cut.

Every criterion but ``batchnorm``, ``geometric_median`` and ``contribution`` scores single weights;
a unit's score is then made from those of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rl_compress.errors import ConfigError
from rl_compress.importance.contribution import ContributionResult
from rl_compress.importance.evidence import input_norms, weight_gradients
from rl_compress.model.axes import Axis, named_tensors, quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.space.space_config import Criterion
from rl_compress.targets.target import Target

Norm = Literal["l1", "l2"]
Scores = npt.NDArray[np.float64]

_SEED = 0
_BATCHES = 4
"""Calibration batches that gradients and activations are taken from."""

_BLOCK = 1 << 17
"""Weights that are read at once: what is made of them fits a processor's cache."""

CHANNELS_ONLY = ("batchnorm", "geometric_median")
"""Criteria that mean nothing for single weights."""


def channel_scores(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    criterion: Criterion,
    target: Target | None = None,
    contribution: ContributionResult | None = None,
) -> list[Scores]:
    """Score the units of channel groups.

    Args:
        model: The network, in evaluation mode.
        groups: Prunable groups.
        criterion: One of the job's criteria.
        target: Supplies calibration data to the criteria that need some.
        contribution: What contribution pruning found for these groups, for that criterion.

    Returns:
        For each group the scores of its units, higher being more important.

    Raises:
        ConfigError: The criterion needs data, or a BatchNorm, that is not there.
    """
    tensors = named_tensors(model)
    if criterion == "contribution":
        assert contribution is not None, "the caller measures contributions"
        return contribution.ranking()
    if criterion == "batchnorm":
        return [_batchnorm_scales(model, tensors, group) for group in groups]
    if criterion == "random":
        rng = np.random.default_rng(_SEED)
        return [rng.random(group.num_units) for group in groups]
    if criterion == "geometric_median":
        return [_over_axes(tensors, group, _distances) for group in groups]
    if criterion in ("l1", "l2"):
        return [unit_importance(tensors, group, criterion) for group in groups]
    scores = weight_scores(model, criterion, target)
    return [_over_axes(scores, group, _sums) for group in groups]


def weight_scores(
    model: nn.Module, criterion: Criterion, target: Target | None = None
) -> dict[str, Tensor]:
    """Score single weights of convolutions and linear layers.

    ``l1`` ``|w|``; ``l2`` ``w^2``; ``activation`` ``|w| ||x||_2``, with x the input that the weight
    is multiplied by, over calibration data (Sun et al., "A simple and effective pruning approach
    for large language models" (Wanda), ICLR 2024, equation 1); ``taylor`` ``|w dL/dw|``, the mean
    over calibration batches (Molchanov et al., CVPR 2019, equation 8); ``random`` uniform.

    Args:
        model: The network, in evaluation mode.
        criterion: One of these.
        target: Supplies calibration data to the last two but random.

    Returns:
        Scores in the shape of each weight.

    Raises:
        ConfigError: The criterion scores whole channels only, or there is no data for it.
    """
    names = quantizable_weights(model)
    weights = {name: model.get_parameter(name).detach().double().cpu() for name in names}
    match criterion:
        case "l1":
            return {name: weight.abs() for name, weight in weights.items()}
        case "l2":
            return {name: weight.square() for name, weight in weights.items()}
        case "random":
            generator = torch.Generator().manual_seed(_SEED)
            return {
                name: torch.rand(weight.shape, generator=generator, dtype=torch.float64)
                for name, weight in weights.items()
            }
        case "activation":
            norms = input_norms(model, _data(target, criterion), _BATCHES)
            return {
                name: weight.abs() * norms.get(name, torch.ones(1))
                for name, weight in weights.items()
            }
        case "taylor":
            batches = weight_gradients(model, _data(target, criterion), names, _BATCHES)
            return {
                name: torch.stack([(weights[name] * g[name]).abs() for g in batches]).mean(dim=0)
                for name in names
            }
    raise ConfigError(
        f"space.pruning.importance: {criterion} ranks whole channels; with "
        f"space.pruning.structure other than channels choose l1, l2, taylor, activation, "
        f"contribution or random"
    )


def unit_importance(tensors: Mapping[str, Tensor], group: LayerGroup, norm: Norm) -> Scores:
    """Score the units of a group by the norm of all weights that would go with them.

    Every weight tensor of the group contributes its units' norms, divided by their mean, so that
    no layer outweighs the others by its scale (Fang et al., "DepGraph", CVPR 2023, section 3.3).

    Args:
        tensors: The model's parameters and buffers by name.
        group: A prunable group.
        norm: Which norm of a unit's weights.

    Returns:
        Non-negative scores, shape ``(num_units,)``.
    """
    return _over_axes(tensors, group, _norms_1 if norm == "l1" else _norms_2)


def rank_units(
    tensors: Mapping[str, Tensor], group: LayerGroup, norm: Norm
) -> npt.NDArray[np.int64]:
    """Return the group's units from most to least important, shape ``(num_units,)``."""
    return ranked(unit_importance(tensors, group, norm))


def ranked(scores: Scores) -> npt.NDArray[np.int64]:
    """Return the indices of scores from highest to lowest; of equals the first comes first."""
    return np.argsort(-scores, kind="stable")


def _over_axes(
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


def _norms_1(tensor: Tensor, axis: Axis) -> Tensor:
    return _added_up(tensor, axis, torch.abs)


def _norms_2(tensor: Tensor, axis: Axis) -> Tensor:
    return _added_up(tensor, axis, torch.square).sqrt()


def _sums(tensor: Tensor, axis: Axis) -> Tensor:
    return _added_up(tensor, axis, lambda values: values)


def _added_up(tensor: Tensor, axis: Axis, of_weights: Callable[[Tensor], Tensor]) -> Tensor:
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


def _distances(tensor: Tensor, axis: Axis) -> Tensor:
    """Return how far each unit's weights are from all others'.

    Units near the geometric median can be replaced by the others (He et al., "Filter pruning via
    geometric median", CVPR 2019, equation 6).
    """
    rows = tensor.movedim(axis.axis, 0)[torch.from_numpy(axis.positions)].double().flatten(1)
    return torch.cdist(rows, rows).sum(dim=1)


def _batchnorm_scales(model: nn.Module, tensors: Mapping[str, Tensor], group: LayerGroup) -> Scores:
    """Return the mean ``|gamma|`` behind each unit (Liu et al., "Network slimming", ICCV 2017)."""
    scales = [
        tensors[axis.tensor].detach().double().abs().cpu().numpy()[axis.positions].mean(axis=1)
        for axis in group.axes
        if axis.tensor.endswith(".weight")
        and isinstance(model.get_submodule(axis.tensor.removesuffix(".weight")), _BatchNorm)
    ]
    if not scales:
        raise ConfigError(
            f"space.pruning.importance: batchnorm ranks channels by the scale of the BatchNorm "
            f"behind them, but {group.name} has none; choose l2, or list it in space.skip"
        )
    return np.mean(scales, axis=0)


def _data(target: Target | None, criterion: str) -> Target:
    if target is None:
        raise ConfigError(f"space.pruning.importance: {criterion} needs a target with data")
    return target


def unit_sums(scores: Tensor, units: Tensor, num_units: int) -> Scores:
    """Add up scores of single weights by unit, shape ``(num_units,)``.

    Args:
        scores: Of each weight.
        units: The unit of each weight, same shape.
        num_units: Number of units.
    """
    total = torch.zeros(num_units, dtype=torch.float64)
    return total.scatter_add_(0, units.reshape(-1), scores.double().reshape(-1)).numpy()


def names_of(groups: Iterable[LayerGroup]) -> list[str]:
    """Return the weight that each sparse group is about."""
    return [f"{group.name}.weight" if group.name else "weight" for group in groups]
