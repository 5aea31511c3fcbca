"""Sparse structures: which weights go together, and which may go at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.importance.units import block_map
from rl_compress.model.axes import quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.model.layers import kind_of
from rl_compress.space.search_space import Dimension
from rl_compress.space.space_config import PruningConfig, SpaceConfig, parse_n_of_m

_LEVELS = 100
"""Levels of a layer with many weights: pruning ratios about one per cent apart."""


def sparse_groups(
    model: nn.Module, config: SpaceConfig, protected: Sequence[str] = ()
) -> list[LayerGroup]:
    """Return a group for every weight of a convolution or linear layer, in the model's order.

    Args:
        model: The network.
        config: Structure, and layers to skip.
        protected: Layers that are not pruned.

    Raises:
        ConfigError: Blocks do not divide a weight, or N:M no weight at all.
    """
    groups = [
        _describe(model, name, config, protected)
        for name in quantizable_weights(model, lambda _layer: False)
    ]
    pattern = parse_n_of_m(config.pruning.structure)
    if pattern and not any(group.prunable for group in groups):
        raise ConfigError(
            f"space.pruning.structure: {config.pruning.structure} fits no layer, for its inputs "
            f"must be a multiple of {pattern[1]}; choose another structure"
        )
    return groups


def _describe(
    model: nn.Module, name: str, config: SpaceConfig, protected: Sequence[str]
) -> LayerGroup:
    layer_name = name.removesuffix("weight").removesuffix(".")
    layer, weight = model.get_submodule(layer_name), model.get_parameter(name)
    inputs = weight.numel() // max(len(weight), 1)
    pattern = parse_n_of_m(config.pruning.structure)
    reason, num_units = None, weight.numel()
    if config.skips(layer_name):
        reason = f"{layer_name} is listed in space.skip"
    elif layer_name in protected:
        reason = config.protection_of(layer_name, protected)
    elif pattern is not None:
        num_units = pattern[1]
        if inputs % pattern[1]:
            reason = f"its {inputs} inputs are no multiple of {pattern[1]}"
    elif config.pruning.structure == "blocks":
        num_units = int(block_map(weight, name, config.pruning.block_shape).max()) + 1
    return LayerGroup(
        name=layer_name,
        layers=(layer_name,),
        producers=(layer_name,),
        kind=kind_of(layer),
        num_units=num_units,
        channels=weight.shape[0],
        axes=(),
        reason=reason,
    )


def sparse_dimension(group: LayerGroup, config: PruningConfig) -> Dimension:
    """Return how many of its units a sparse group may keep."""
    if (pattern := parse_n_of_m(config.structure)) is not None:
        return Dimension(group.name, "sparsity", pattern)
    smallest = max(1, round(group.num_units * (1.0 - config.max_ratio)))
    steps = min(_LEVELS, group.num_units - smallest)
    amounts = torch.linspace(smallest, group.num_units, steps + 1).round().long().tolist()
    return Dimension(group.name, "sparsity", tuple(dict.fromkeys(amounts)))


def element_units(weight: Tensor, name: str, config: PruningConfig) -> Tensor:
    """Return the unit of every weight that is ranked against the others of its layer.

    For N:M every M neighbours along the inputs are ranked among themselves, so each weight is a
    unit of its own there.
    """
    if config.structure == "blocks":
        return block_map(weight, name, config.block_shape)
    return torch.arange(weight.numel()).reshape(weight.shape)


def element_ranks(scores: Tensor, units: Tensor, config: PruningConfig) -> Tensor:
    """Return the rank of every weight's unit, 0 being the most important, in the weight's shape.

    Args:
        scores: Importance of each unit, shape ``(num_units,)``.
        units: The unit of each weight, see :func:`element_units`.
        config: The structure.
    """
    if (pattern := parse_n_of_m(config.structure)) is not None:
        neighbours = scores.reshape(-1, pattern[1])
        order = neighbours.argsort(dim=1, descending=True, stable=True)
        return order.argsort(dim=1).reshape(units.shape)
    ranks = scores.argsort(descending=True, stable=True).argsort()
    return ranks[units]
