"""Preparing a target for pruning single weights, blocks of them, or N of every M."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from rl_compress.costs.precision import Precision
from rl_compress.costs.sparse import SparseCosts
from rl_compress.errors import ConfigError
from rl_compress.importance.contribution import Train, contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import make_importance, names_of, unit_sums
from rl_compress.importance.structures import (
    element_ranks,
    element_units,
    sparse_dimension,
    sparse_groups,
)
from rl_compress.importance.units import Units
from rl_compress.model.axes import named_tensors
from rl_compress.model.graph import trace
from rl_compress.model.groups import quantizable_layers
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import plan_bits
from rl_compress.space.search_space import Dimension, SearchSpace
from rl_compress.space.space_config import SpaceConfig, parse_n_of_m
from rl_compress.targets.target import Target
from rl_compress.variants.masked import MaskedNetwork
from rl_compress.variants.parts import (
    Parts,
    Scores,
    check_mask_size,
    some_prunable,
)
from rl_compress.variants.slimmable import without_weights


def prepare_sparse(
    model: nn.Module,
    example_inputs: Inputs,
    config: SpaceConfig,
    target: Target | None,
    contribution: ContributionConfig,
    train: Train | None,
) -> Parts:
    """See :meth:`Compressor.prepare`; single weights, or blocks of them, become zero."""
    pruning, tensors = config.pruning, named_tensors(model)
    graph = trace(model, example_inputs)
    order = quantizable_layers(model, graph.order)
    groups = sparse_groups(model, config, config.protected(order))
    prunable = some_prunable(groups)
    names = names_of(prunable)
    maps = {name: element_units(tensors[name], name, pruning) for name in names}
    found = None
    importance = make_importance(pruning, target)
    if importance.needs == "contributions" and target is not None:
        shape = pruning.block_shape if pruning.structure == "blocks" else (1, 1)
        units = Units.blocks(model, names, shape)
        found = contribution_pruning(model, units, target, contribution, train=train)
        scores = found.ranking()
    else:
        elements = importance.weights(Evidence(model, target))
        scores = [
            unit_sums(elements[name], maps[name], int(maps[name].max()) + 1) for name in names
        ]
    decided, dimensions = prunable, [sparse_dimension(group, pruning) for group in prunable]
    parents = prunable
    network = MaskedNetwork(
        without_weights(model, tensors),
        {name: tensor.detach().clone() for name, tensor in tensors.items()},
        tuple(decided),
    )
    if found is not None and contribution.shrinkage == "soft":
        network.shrinkage = contribution.epsilon
    per_unit: dict[str, Scores] = {}
    if config.action == "mask":
        if parse_n_of_m(pruning.structure) is not None:
            raise ConfigError(
                f"space.action: mask decides every unit freely, which {pruning.structure} forbids; "
                f"choose action: ratio, or structure: weights or blocks"
            )
        sizes = [len(values) for values in scores]
        check_mask_size(sum(sizes), config)
        parents = [group for group, size in zip(prunable, sizes, strict=True) for _ in range(size)]
        decided = [
            dataclasses.replace(group, name=f"{group.name}[{unit}]", num_units=1)
            for group, size in zip(prunable, sizes, strict=True)
            for unit in range(size)
        ]
        dimensions = [Dimension(group.name, "sparsity", (0, 1)) for group in decided]
        network.groups = tuple(decided)
        start = 0
        for name, size in zip(names, sizes, strict=True):
            network.add_order(name, maps[name] + start, torch.zeros(()))
            per_unit[name] = np.zeros(len(decided))
            per_unit[name][start : start + size] = maps[name].numel() / size
            start += size
        importances = [values[[unit]] for values in scores for unit in range(len(values))]
    else:
        importances = []
        for index, (name, values) in enumerate(zip(names, scores, strict=True)):
            ranks = element_ranks(torch.from_numpy(values), maps[name], pruning)
            network.add_order(name, torch.tensor(index), ranks)
            per_unit[name] = np.zeros(len(decided))
            per_unit[name][index] = maps[name].numel() / prunable[index].num_units
            importances.append(_by_unit(values, prunable[index].num_units))
    plan, bits = plan_bits(model, groups, order, config, len(dimensions))
    space = SearchSpace((*dimensions, *bits))
    precision = Precision(model, config.quantization, plan)
    return Parts(
        config=config,
        groups=groups,
        notes=[],
        space=space,
        bits=plan,
        network=network,
        costs=SparseCosts(model, per_unit, graph, space, precision, plan),
        parents=parents,
        orders=[],
        importances=importances,
        contribution=found,
    )


def _by_unit(scores: Scores, num_units: int) -> Scores:
    """Return the scores of a group's units; with N:M the mean of each rank among M neighbours."""
    if len(scores) == num_units:
        return scores
    return -np.sort(-scores.reshape(-1, num_units), axis=1).mean(axis=0)
