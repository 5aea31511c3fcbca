"""The compressor: everything needed to turn a compression policy into a variant of one target."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.compression.masked import MaskedNetwork
from rl_compress.compression.physical import History, cut
from rl_compress.compression.slimmable import SlimmableNetwork, without_weights
from rl_compress.compression.trial_cuts import try_groups
from rl_compress.costs.activation_memory import ActivationMemory
from rl_compress.costs.analytic import AnalyticCosts
from rl_compress.costs.precision import precisions
from rl_compress.costs.sparse import SparseCosts
from rl_compress.errors import ConfigError, UnsupportedLayerError
from rl_compress.layers.axes import Axis, named_tensors
from rl_compress.layers.groups import LayerGroup, find_groups
from rl_compress.policy.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.policy.space_config import SpaceConfig, parse_n_of_m
from rl_compress.pruning.contribution import ContributionResult, Train, contribution_pruning
from rl_compress.pruning.contribution_config import ContributionConfig
from rl_compress.pruning.importance import (
    channel_scores,
    names_of,
    ranked,
    unit_sums,
    weight_scores,
)
from rl_compress.pruning.structures import (
    element_ranks,
    element_units,
    sparse_choices,
    sparse_groups,
)
from rl_compress.pruning.units import Units
from rl_compress.targets.target import Target

Scores = npt.NDArray[np.float64]


@dataclass(slots=True)
class Compressor:
    """A target's groups, search space, costs, and shared weights."""

    config: SpaceConfig
    groups: list[LayerGroup]
    """All layer groups in forward order, those that cannot be pruned with the reason."""
    notes: list[str]
    """What else the user should know of the model's layers."""
    space: SearchSpace
    """The widths that are decided: of the prunable groups, or of every single unit (masks)."""
    network: SlimmableNetwork | MaskedNetwork
    costs: AnalyticCosts | SparseCosts
    parents: list[LayerGroup]
    """For each group of the space the layer group that its units are in."""
    orders: list[npt.NDArray[np.int64]]
    """For each group of the space its units, numbered as in its parent, from most to least
    important; not filled in for sparse structures, whose network has the ranks."""
    importances: list[Scores]
    """For each group of the space the importance of its units."""
    contribution: ContributionResult | None = None
    """How the importances came about, with ``importance: contribution``."""

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        example_inputs: Sequence[Tensor],
        config: SpaceConfig,
        *,
        target: Target | None = None,
        contribution: ContributionConfig | None = None,
        train: Train | None = None,
    ) -> Compressor:
        """Find what can be compressed in a model, rank it, and prove it by trial cuts.

        Args:
            model: The uncompressed model on the CPU, in evaluation mode; left as it is.
            example_inputs: Inputs of one forward pass, batch size 1.
            config: What may be pruned, and by how much.
            target: Supplies calibration data to the criteria that need some.
            contribution: How contributions are measured, for that criterion.
            train: Trains between two measurements of them, where the job says so.

        Raises:
            UnsupportedLayerError: The model cannot be traced or has no prunable group.
            ConfigError: Structure, criterion or action do not suit the model.
        """
        make = _prepare_channels if config.pruning.structure == "channels" else _prepare_sparse
        contribution = contribution or ContributionConfig()
        return make(model, example_inputs, config, target, contribution, train)

    def without_weights(self) -> Compressor:
        """Return the same without tensors, to be sent to workers that map them from a file."""
        return dataclasses.replace(self, network=self.network.with_tensors({}), contribution=None)

    def with_tensors(self, tensors: dict[str, Tensor]) -> Compressor:
        """Return the same with the network's tensors, undoing :meth:`without_weights`."""
        return dataclasses.replace(self, network=self.network.with_tensors(tensors))

    def cut(
        self, model: nn.Module, example_inputs: Sequence[Tensor], widths: Widths
    ) -> tuple[nn.Module, History]:
        """Make the variant from a copy of the model: smaller for channels, else with zeros.

        Returns:
            The variant, and the history that makes the same cuts in an equal model.
        """
        if isinstance(self.network, SlimmableNetwork):
            removed: dict[str, list[int]] = {}
            for parent, order, width in zip(self.parents, self.orders, widths, strict=True):
                gone = parent.channel_indices(order[width:].tolist())
                removed.setdefault(parent.name, []).extend(gone)
            return cut(model, example_inputs, {name: sorted(c) for name, c in removed.items()})
        masked = copy.deepcopy(model)
        with torch.no_grad():
            for name, mask in self.masks(widths).items():
                weight = masked.get_parameter(name)
                weight.copy_(self.network.masked(weight, mask))
        return masked, []

    def masks(self, widths: Widths) -> dict[str, Tensor]:
        """Return which elements of each sparse weight a variant keeps; none where layers shrink.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
        """
        return self.network.masks(widths) if isinstance(self.network, MaskedNetwork) else {}

    def kept_outputs(self, widths: Widths, *, ordered: bool) -> dict[str, Tensor]:
        """Return which output channels of each narrowed layer a variant keeps.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
            ordered: Count channels in the shared network's order instead of the model's own.

        Returns:
            For each layer with a narrowed weight the indices of its kept output channels in the
            uncompressed layer, in the variant's order.
        """
        if isinstance(self.network, MaskedNetwork):
            return {}
        modules = dict(self.network.skeleton.named_modules())
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for index, width in enumerate(widths):
            group = self.network.groups[index] if ordered else self.parents[index]
            dropped = np.arange(group.num_units) if ordered else self.orders[index]
            for axis in group.axes:
                layer, _, tensor = axis.tensor.rpartition(".")
                module = modules.get(layer)
                # The output axis of a weight is 0, and 1 in a transposed convolution.
                output_axis = int(bool(getattr(module, "transposed", False)))
                if tensor == "weight" and axis.axis == output_axis:
                    size = self.network.skeleton.get_parameter(axis.tensor).shape[output_axis]
                    mask = masks.setdefault(layer, np.ones(size, dtype=bool))
                    mask[axis.positions[dropped[width:]]] = False
        return {layer: torch.from_numpy(np.flatnonzero(mask)) for layer, mask in masks.items()}


def _prepare_channels(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    config: SpaceConfig,
    target: Target | None,
    contribution: ContributionConfig,
    train: Train | None,
) -> Compressor:
    groups, notes = find_groups(model, example_inputs, config)
    groups = try_groups(model, groups, example_inputs)
    prunable = _some_prunable(groups)
    found = None
    if config.pruning.importance == "contribution":
        units = Units.channels(model, prunable)
        found = contribution_pruning(model, units, _needed(target), contribution, train=train)
    scores = channel_scores(model, prunable, config.pruning.importance, target, found)
    orders = [ranked(values) for values in scores]
    if config.action == "mask":
        _check_mask_size(sum(group.num_units for group in prunable), config)
        # The most important channel of a group is never up for decision: no layer may vanish.
        chosen = [
            (parent, values, int(unit))
            for parent, values, order in zip(prunable, scores, orders, strict=True)
            for unit in sorted(order[1:])
        ]
        decided = [_single(parent, unit) for parent, _, unit in chosen]
        choices = [GroupChoices(group.name, 1, (0, 1)) for group in decided]
        parents = [parent for parent, _, _ in chosen]
        orders = [np.array([unit]) for _, _, unit in chosen]
        scores = [values[[unit]] for _, values, unit in chosen]
        placed = [np.zeros(1, dtype=np.int64) for _ in decided]
    else:
        decided, parents, placed = prunable, prunable, orders
        choices = [
            GroupChoices.from_config(
                group.name, group.num_units, group.channels // group.num_units, config.pruning
            )
            for group in prunable
        ]
    space = SearchSpace(tuple(choices))
    network = SlimmableNetwork.from_model(model, decided, placed)
    memory = ActivationMemory(network.variant, space, example_inputs)
    costs = AnalyticCosts(model, decided, example_inputs, memory, precisions(model, config))
    if costs.fixed_macs:
        notes.append(
            f"{costs.fixed_macs:,d} MACs are in operations without a layer and count as fixed"
        )
    return Compressor(
        config=config,
        groups=groups,
        notes=notes,
        space=space,
        network=network,
        costs=costs,
        parents=parents,
        orders=orders,
        importances=scores,
        contribution=found,
    )


def _prepare_sparse(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    config: SpaceConfig,
    target: Target | None,
    contribution: ContributionConfig,
    train: Train | None,
) -> Compressor:
    pruning, tensors = config.pruning, named_tensors(model)
    groups = sparse_groups(model, config)
    prunable = _some_prunable(groups)
    names = names_of(prunable)
    maps = {name: element_units(tensors[name], name, pruning) for name in names}
    found = None
    if pruning.importance == "contribution":
        shape = pruning.block_shape if pruning.structure == "blocks" else (1, 1)
        units = Units.blocks(model, names, shape)
        found = contribution_pruning(model, units, _needed(target), contribution, train=train)
        scores = found.ranking()
    else:
        elements = weight_scores(model, pruning.importance, target)
        scores = [
            unit_sums(elements[name], maps[name], int(maps[name].max()) + 1) for name in names
        ]
    decided, choices = prunable, [sparse_choices(group, pruning) for group in prunable]
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
        _check_mask_size(sum(sizes), config)
        parents = [group for group, size in zip(prunable, sizes, strict=True) for _ in range(size)]
        decided = [
            dataclasses.replace(group, name=f"{group.name}[{unit}]", num_units=1)
            for group, size in zip(prunable, sizes, strict=True)
            for unit in range(size)
        ]
        choices = [GroupChoices(group.name, 1, (0, 1)) for group in decided]
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
    return Compressor(
        config=config,
        groups=groups,
        notes=[],
        space=SearchSpace(tuple(choices)),
        network=network,
        costs=SparseCosts(model, per_unit, example_inputs, precisions(model, config)),
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


def _single(parent: LayerGroup, unit: int) -> LayerGroup:
    """Return one channel of a group as a group of its own."""
    return dataclasses.replace(
        parent,
        name=f"{parent.name}[{unit}]",
        num_units=1,
        channels=parent.channels // parent.num_units,
        axes=tuple(Axis(axis.tensor, axis.axis, axis.positions[[unit]]) for axis in parent.axes),
    )


def _some_prunable(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    prunable = [group for group in groups if group.prunable]
    if not prunable:
        reasons = "; ".join(f"{group.name}: {group.reason}" for group in groups)
        raise UnsupportedLayerError(
            f"target: the model has no prunable group ({reasons or 'no layers found'}); "
            f"it needs convolutions or linear layers in front of its last layer"
        )
    return prunable


def _check_mask_size(units: int, config: SpaceConfig) -> None:
    if units > config.max_mask_units:
        raise ConfigError(
            f"space.action: a mask over {units:,d} units is beyond space.max_mask_units "
            f"({config.max_mask_units:,d}); choose action: ratio, a coarser "
            f"space.pruning.structure, or list layers in space.skip"
        )


def _needed(target: Target | None) -> Target:
    if target is None:
        raise ConfigError("space.pruning.importance: contribution needs a target with data")
    return target
