"""What can be decided of a target's sites, and what that means for the shared network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_compress.costs.counted import CountedModel, KeptElements
from rl_compress.errors import ConfigError, UnsupportedLayerError
from rl_compress.importance.importance import ranked
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup, some
from rl_compress.quantizers.bits import BitPlan, Bits
from rl_compress.space.search_space import Dimension
from rl_compress.space.space_config import SpaceConfig
from rl_compress.transforms.bits import ActivationBits, WeightBits
from rl_compress.transforms.transform import Effect, ModelView, Scores, Structure
from rl_compress.variants.slimmable import SlimmableNetwork

_Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Decision:
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


def some_prunable(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
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


def decide(
    structure: Structure,
    sites: Sequence[LayerGroup],
    effects: Sequence[Effect],
    config: SpaceConfig,
) -> list[Decision]:
    """Decide how many of each site's units stay, or with masks of every single one whether it does.

    Raises:
        ConfigError: The structure forbids masks, or there are more units than the job admits.
    """
    if config.action == "ratio":
        orders = [ranked(effect.scores) for effect in effects]
        return [
            Decision(
                Dimension(site.name, structure.name, structure.choices(site)),
                site,
                site,
                order,
                order,
                effect.scores,
            )
            for site, effect, order in zip(sites, effects, orders, strict=True)
        ]
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
            found.append(Decision(dimension, site, single, one, nothing, effect.scores[one]))
    return found


def order_elements(
    network: SlimmableNetwork,
    decisions: Sequence[Decision],
    sites: Sequence[LayerGroup],
    effects: Sequence[Effect],
) -> list[KeptElements]:
    """Tell the network in which order elements become zero; returns how many stay."""
    kept = []
    by_site: dict[str, dict[int, Decision]] = {site.name: {} for site in sites}
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


def plan_bits(view: ModelView, first: int) -> tuple[BitPlan, list[Dimension]]:
    """Decide where each layer's bits come from.

    Args:
        view: The model.
        first: Number of dimensions in front of those for bits.
    """
    plan: dict[str, dict[str, Bits]] = {}
    dimensions: list[Dimension] = []
    for transform in (WeightBits(view.space), ActivationBits(view.space)):
        found: dict[str, Bits] = {}
        for site in transform.sites(view):
            bits = Bits(choices := transform.choices(site))
            if len(choices) > 1:
                bits = Bits(choices, first + len(dimensions))
                dimensions.append(Dimension(site.name, transform.name, choices))
            found |= dict.fromkeys(transform.prepare(view, site, np.zeros(0)).layers, bits)
        plan[transform.name] = {name: found[name] for name in view.layers if name in found} | found
    return BitPlan(plan["weight_bits"], plan["activation_bits"]), dimensions


def on_fixed_macs(counted: CountedModel) -> list[str]:
    """Say which MACs stay whatever is decided."""
    notes = []
    if counted.fixed_macs:
        notes.append(
            f"{counted.fixed_macs:,d} MACs are in operations without a layer and count as fixed"
        )
    if fixed := counted.fixed_layers:
        notes.append(
            f"{sum(fixed.values()):,d} MACs are in layers that no group narrows and count as fixed "
            f"({some(list(fixed))})"
        )
    return notes
