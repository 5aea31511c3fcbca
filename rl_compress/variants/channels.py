"""Preparing a target for pruning whole channels."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from rl_compress.costs.analytic import AnalyticCosts
from rl_compress.costs.precision import Precision
from rl_compress.importance.contribution import Train, contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import make_importance, ranked
from rl_compress.importance.units import Units
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup, quantizable_layers, some
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import plan_bits
from rl_compress.space.search_space import Dimension, SearchSpace
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target
from rl_compress.variants.parts import Parts, check_mask_size, some_prunable
from rl_compress.variants.proof import check_uncut, find_proved_groups
from rl_compress.variants.slimmable import SlimmableNetwork


def prepare_channels(
    model: nn.Module,
    example_inputs: Inputs,
    config: SpaceConfig,
    target: Target | None,
    contribution: ContributionConfig,
    train: Train | None,
) -> Parts:
    """See :meth:`Compressor.prepare`; layers become narrower."""
    found_groups = find_proved_groups(model, example_inputs, config)
    groups, notes, graph = found_groups.groups, found_groups.notes, found_groups.graph
    order = quantizable_layers(model, graph.order)
    prunable = some_prunable(groups)
    found = None
    importance = make_importance(config.pruning, target)
    if importance.needs == "contributions" and target is not None:
        units = Units.channels(model, prunable)
        found = contribution_pruning(model, units, target, contribution, train=train)
    scores = importance.units(Evidence(model, target, found), prunable)
    orders = [ranked(values) for values in scores]
    if config.action == "mask":
        check_mask_size(sum(group.num_units for group in prunable), config)
        # The most important channel of a group is never up for decision: no layer may vanish.
        chosen = [
            (parent, values, int(unit))
            for parent, values, order in zip(prunable, scores, orders, strict=True)
            for unit in sorted(order[1:])
        ]
        decided = [_single(parent, unit) for parent, _, unit in chosen]
        dimensions = [Dimension(group.name, "channels", (0, 1)) for group in decided]
        parents = [parent for parent, _, _ in chosen]
        orders = [np.array([unit]) for _, _, unit in chosen]
        scores = [values[[unit]] for _, values, unit in chosen]
        placed = [np.zeros(1, dtype=np.int64) for _ in decided]
    else:
        decided, parents, placed = prunable, prunable, orders
        dimensions = [
            Dimension.of_channels(
                group.name, group.num_units, group.channels // group.num_units, config.pruning
            )
            for group in prunable
        ]
    plan, bits = plan_bits(model, groups, order, config, len(dimensions))
    space = SearchSpace((*dimensions, *bits))
    network = SlimmableNetwork.from_model(model, decided, placed)
    check_uncut(model, network, example_inputs)
    precision = Precision(model, config.quantization, plan)
    costs = AnalyticCosts(model, decided, graph, space, precision, plan)
    if bits:
        network = network.with_bits(plan.weights, config.quantization)
    if costs.fixed_macs:
        notes.append(
            f"{costs.fixed_macs:,d} MACs are in operations without a layer and count as fixed"
        )
    if fixed := costs.fixed_layers:
        notes.append(
            f"{sum(fixed.values()):,d} MACs are in layers that no group narrows and count as fixed "
            f"({some(list(fixed))})"
        )
    return Parts(
        config=config,
        groups=groups,
        notes=notes,
        space=space,
        bits=plan,
        network=network,
        costs=costs,
        parents=parents,
        orders=orders,
        importances=scores,
        contribution=found,
    )


def _single(parent: LayerGroup, unit: int) -> LayerGroup:
    """Return one channel of a group as a group of its own."""
    return dataclasses.replace(
        parent,
        name=f"{parent.name}[{unit}]",
        num_units=1,
        channels=parent.channels // parent.num_units,
        axes=tuple(Axis(axis.tensor, axis.axis, axis.positions[[unit]]) for axis in parent.axes),
    )
