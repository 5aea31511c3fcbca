"""Preparing a target: its sites, what can be decided of them, and the network that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.costs.counted import KeptElements
from rl_compress.costs.level_costs import LevelCosts
from rl_compress.costs.precision import Precision
from rl_compress.errors import ConfigError, UnsupportedLayerError
from rl_compress.importance.contribution import Train, contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import make_importance, ranked
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup, some
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import BitPlan, Bits
from rl_compress.space.search_space import Dimension, SearchSpace
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target
from rl_compress.transforms.bits import ActivationBits, BitWidths, WeightBits
from rl_compress.transforms.transform import Effect, ModelView, Scores, Structure, make_structure
from rl_compress.variants.parts import Parts
from rl_compress.variants.proof import check_uncut, find_proved_groups
from rl_compress.variants.slimmable import SlimmableNetwork

_Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Decision:
    """A dimension that prunes."""

    dimension: Dimension
    parent: LayerGroup
    """The site."""
    group: LayerGroup
    """What is decided of it, as the network knows it: all of its units, or a single one."""
    units: _Order
    """Those units, numbered as in the site, from most to least important."""
    placed: _Order
    """The same, numbered as in the group."""
    scores: Scores
    """Their importance, in the order of their numbers."""


def prepare_parts(
    model: nn.Module,
    example_inputs: Inputs,
    config: SpaceConfig,
    target: Target | None,
    contribution: ContributionConfig,
    train: Train | None,
) -> Parts:
    """See :meth:`Compressor.prepare`."""
    view = ModelView(
        model, example_inputs, config, lambda: find_proved_groups(model, example_inputs, config)
    )
    structure = make_structure(config)
    groups = view.groups = structure.sites(view)
    sites = _prunable(groups)
    found = None
    importance = make_importance(config.pruning, target)
    if importance.needs == "contributions" and target is not None:
        units = structure.units(view, sites)
        found = contribution_pruning(model, units, target, contribution, train=train)
    scores = structure.scores(view, sites, importance, Evidence(model, target, found))
    effects = [structure.prepare(view, *one) for one in zip(sites, scores, strict=True)]
    if config.action == "mask":
        decisions = _by_unit(structure, sites, effects, config)
    else:
        decisions = [_of_site(structure, *one) for one in zip(sites, effects, strict=True)]
    decided = [one.group for one in decisions]
    dimensions = [one.dimension for one in decisions]
    plan, bits = _plan_bits(view, (WeightBits(config), ActivationBits(config)), len(dimensions))
    space = SearchSpace((*dimensions, *bits))
    network = SlimmableNetwork.from_model(model, decided, [one.placed for one in decisions])
    kept = _order_elements(network, decisions, sites, effects)
    if structure.narrows:
        check_uncut(model, network, example_inputs)
    elif found is not None and contribution.shrinkage == "soft":
        network.shrinkage = contribution.epsilon
    precision = Precision(model, config.quantization, plan)
    costs = LevelCosts(model, decided, view.graph, space, precision, plan, kept)
    notes = structure.notes(view)
    if structure.narrows:
        # What has zeros is quantized when they are known.
        network = network.with_bits(plan.weights, config.quantization) if bits else network
        notes += _on_fixed_costs(costs)
    return Parts(
        config=config,
        groups=groups,
        notes=notes,
        space=space,
        bits=plan,
        network=network,
        costs=costs,
        parents=[one.parent for one in decisions],
        orders=[one.units if structure.narrows else np.zeros(0, np.int64) for one in decisions],
        importances=[one.scores for one in decisions],
        contribution=found,
    )


def _prunable(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    """Return the groups that can be pruned.

    Raises:
        UnsupportedLayerError: There is none; the message says why.
    """
    prunable = [group for group in groups if group.prunable]
    if not prunable:
        reasons = "; ".join(f"{group.name}: {group.reason}" for group in groups)
        raise UnsupportedLayerError(
            f"target: the model has no prunable group ({reasons or 'no layers found'}); "
            f"it needs convolutions or linear layers in front of its last layer"
        )
    return prunable


def _of_site(structure: Structure, site: LayerGroup, effect: Effect) -> _Decision:
    """Decide how many of a site's units stay."""
    dimension = Dimension(site.name, structure.name, structure.choices(site))
    order = ranked(effect.scores)
    return _Decision(dimension, site, site, order, order, effect.scores)


def _by_unit(
    structure: Structure,
    sites: Sequence[LayerGroup],
    effects: Sequence[Effect],
    config: SpaceConfig,
) -> list[_Decision]:
    """Decide of every single unit whether it stays.

    Raises:
        ConfigError: The structure forbids it, or there are more units than the job admits.
    """
    if not structure.any_units:
        raise ConfigError(
            f"space.action: mask decides every unit freely, which {config.pruning.structure} "
            f"forbids; choose action: ratio, or structure: weights or blocks"
        )
    if (units := sum(len(effect.scores) for effect in effects)) > config.max_mask_units:
        raise ConfigError(
            f"space.action: a mask over {units:,d} units is beyond space.max_mask_units "
            f"({config.max_mask_units:,d}); choose action: ratio, a coarser "
            f"space.pruning.structure, or list layers in space.skip"
        )
    found = []
    for site, effect in zip(sites, effects, strict=True):
        # The most important channel of a group is never up for decision: no layer may vanish.
        for unit in np.sort(ranked(effect.scores)[int(structure.narrows) :]):
            single = dataclasses.replace(
                site,
                name=f"{site.name}[{unit}]",
                num_units=1,
                channels=site.channels // site.num_units if structure.narrows else site.channels,
                axes=tuple(
                    Axis(axis.tensor, axis.axis, axis.positions[[unit]]) for axis in effect.axes
                ),
            )
            dimension = Dimension(single.name, structure.name, (0, 1))
            one = np.array([unit])
            nothing = np.zeros(1, dtype=np.int64)
            found.append(_Decision(dimension, site, single, one, nothing, effect.scores[one]))
    return found


def _order_elements(
    network: SlimmableNetwork,
    decisions: Sequence[_Decision],
    sites: Sequence[LayerGroup],
    effects: Sequence[Effect],
) -> list[KeptElements]:
    """Tell the network in which order elements become zero; returns how many stay."""
    kept = []
    by_site: dict[str, dict[int, _Decision]] = {site.name: {} for site in sites}
    for index, decision in enumerate(decisions):
        by_site[decision.parent.name][index] = decision
    for decided, effect in zip(by_site.values(), effects, strict=True):
        # Behind the last unit comes that of elements that stay, -1.
        group = torch.full((len(effect.scores) + 1,), -1)
        rank = torch.zeros(len(effect.scores) + 1, dtype=torch.int64)
        for index, decision in decided.items():
            units = torch.from_numpy(decision.units)
            group[units], rank[units] = index, torch.arange(len(units))
        for name, elements in effect.elements.items():
            network.add_order(name, _one_for_all(group[elements]), _one_for_all(rank[elements]))
            sizes = np.bincount(elements.reshape(-1) + 1, minlength=len(group))
            by_unit = {index: sizes[1:][own.units] for index, own in decided.items()}
            kept.append(KeptElements(name, int(sizes[0]), by_unit))
    return kept


def _one_for_all(values: Tensor) -> Tensor:
    """Return one value where all are the same."""
    first = values.reshape(-1)[0]
    return first.clone() if bool((values == first).all()) else values


def _plan_bits(
    view: ModelView, transforms: Sequence[BitWidths], first: int
) -> tuple[BitPlan, list[Dimension]]:
    """Decide where each layer's bits come from.

    Args:
        view: The model.
        transforms: Those of bits.
        first: Number of dimensions in front of those for bits.
    """
    plan: dict[str, dict[str, Bits]] = {"weight_bits": {}, "activation_bits": {}}
    dimensions: list[Dimension] = []
    for transform in transforms:
        for site in transform.sites(view):
            bits = Bits(choices := transform.choices(site))
            if len(choices) > 1:
                bits = Bits(choices, first + len(dimensions))
                dimensions.append(Dimension(site.name, transform.name, choices))
            effect = transform.prepare(view, site, np.zeros(0))
            plan["weight_bits"] |= dict.fromkeys(effect.weight_bits, bits)
            plan["activation_bits"] |= dict.fromkeys(effect.activation_bits, bits)
    in_order = [
        {layer: own[layer] for layer in view.layers if layer in own} | own for own in plan.values()
    ]
    return BitPlan(*in_order), dimensions


def _on_fixed_costs(costs: LevelCosts) -> list[str]:
    """Say which MACs stay whatever is decided."""
    notes = []
    if costs.fixed_macs:
        notes.append(
            f"{costs.fixed_macs:,d} MACs are in operations without a layer and count as fixed"
        )
    if fixed := costs.fixed_layers:
        notes.append(
            f"{sum(fixed.values()):,d} MACs are in layers that no group narrows and count as fixed "
            f"({some(list(fixed))})"
        )
    return notes
