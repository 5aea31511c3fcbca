"""The compressor: everything needed to turn a compression policy into a variant of one target."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.costs.counted import CountedModel
from rl_compress.costs.level_costs import LevelCosts
from rl_compress.costs.precision import Precision
from rl_compress.importance.contribution import ContributionResult, Train, contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Scores, make_importance
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import BitPlan, LayerBits
from rl_compress.quantizers.model import quantize_weights
from rl_compress.space.search_space import Levels, SearchSpace
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target
from rl_compress.transforms.transform import ModelView, make_structure, told
from rl_compress.variants.copied_out import copied_out
from rl_compress.variants.decisions import (
    decide,
    on_fixed_macs,
    order_elements,
    plan_bits,
    some_prunable,
)
from rl_compress.variants.proof import check_uncut, find_proved_groups
from rl_compress.variants.slimmable import SlimmableNetwork


@dataclass(slots=True)
class Compressor:
    """Makes variants of one target, the fast way or for good."""

    config: SpaceConfig
    groups: list[LayerGroup]
    """All layer groups in forward order, those that cannot be pruned with the reason."""
    notes: list[str]
    """What else the user should know of the model's layers."""
    space: SearchSpace
    """What is decided: units of the prunable groups, or every single unit (masks); bits."""
    bits: BitPlan
    """Where the bits of each layer come from."""
    network: SlimmableNetwork
    costs: LevelCosts
    parents: list[LayerGroup]
    """For each dimension that prunes the layer group that its units are in."""
    orders: list[npt.NDArray[np.int64]]
    """For each dimension that prunes its units, numbered as in its parent, from most to least
    important; empty where elements become zero, for the network has their ranks."""
    importances: list[Scores]
    """For each dimension that prunes the importance of its units."""
    contribution: ContributionResult | None = None
    """How the importances came about, with ``importance: contribution``."""

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        example_inputs: Inputs,
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
        contribution = contribution or ContributionConfig()
        view = ModelView(
            model, example_inputs, config, lambda: find_proved_groups(model, example_inputs, config)
        )
        structure = make_structure(config)
        view.groups = structure.sites(view)
        sites = some_prunable(view.groups)
        found = None
        importance = make_importance(config.pruning, target)
        if importance.needs == "contributions" and target is not None:
            units = structure.units(view, sites)
            found = contribution_pruning(model, units, target, contribution, train=train)
        scores = structure.scores(view, sites, importance, Evidence(model, target, found))
        effects = [told(structure, view, *one) for one in zip(sites, scores, strict=True)]
        decisions = decide(structure, sites, effects, config)
        plan, bits = plan_bits(view, len(decisions))
        space = SearchSpace((*(one.dimension for one in decisions), *bits))
        network = SlimmableNetwork.from_model(
            model, [one.group for one in decisions], [one.placed for one in decisions]
        )
        kept = order_elements(network, decisions, sites, effects)
        if structure.narrows:
            check_uncut(model, network, example_inputs)
        elif found is not None and contribution.shrinkage == "soft":
            network.shrinkage = contribution.epsilon
        precision = Precision(model, config.quantization, plan)
        counted = CountedModel(model, network.groups, view.graph, space, precision, plan, kept)
        notes = structure.notes(view)
        if structure.narrows:
            # What has zeros is quantized when they are known.
            network = network.with_bits(plan.weights, config.quantization) if bits else network
            notes += on_fixed_macs(counted)
        return cls(
            config=config,
            groups=view.groups,
            notes=notes,
            space=space,
            bits=plan,
            network=network,
            costs=LevelCosts(counted),
            parents=[one.parent for one in decisions],
            orders=[one.units[: len(one.units) * structure.narrows] for one in decisions],
            importances=[one.scores for one in decisions],
            contribution=found,
        )

    def without_weights(self) -> Compressor:
        """Return the same without tensors, to be sent to workers that map them from a file."""
        return dataclasses.replace(self, network=self.network.with_tensors({}), contribution=None)

    def with_tensors(self, tensors: dict[str, Tensor], packed: Path | None = None) -> Compressor:
        """Return the same with the network's tensors, undoing :meth:`without_weights`.

        Args:
            tensors: The network's own, such as mapped ones.
            packed: Folder where processes that have the same tensors share quantized weights.
        """
        return dataclasses.replace(self, network=self.network.with_tensors(tensors, packed))

    def variant(self, levels: Levels, *, quantized: bool = True) -> nn.Module:
        """Return the network of levels, shape ``(D,)``; see :meth:`SlimmableNetwork.variant`."""
        return self.network.variant(self.space.amounts(levels), quantized=quantized)

    def cut(self, model: nn.Module, levels: Levels) -> nn.Module:
        """Make the variant from a copy of the model: smaller for channels, else with zeros."""
        units = self.space.amounts(levels)[: len(self.parents)]
        copied = copied_out(
            model,
            [
                Axis(axis.tensor, axis.axis, axis.positions[order[width:]])
                for parent, order, width in zip(self.parents, self.orders, units, strict=True)
                for axis in parent.axes
            ],
        )
        with torch.no_grad():
            for name, mask in self.masks(levels).items():
                weight = copied.get_parameter(name)
                weight.copy_(self.network.masked(weight, mask))
        return copied

    @property
    def has_packed(self) -> bool:
        """Say whether the network keeps its weights with the bits that variants give them."""
        return bool(self.network.bits)

    def layer_bits(self, levels: Levels) -> LayerBits:
        """Return the bits of every layer of a variant."""
        return self.bits.at(self.space.amounts(levels))

    def quantized(self, model: nn.Module, levels: Levels) -> nn.Module:
        """Return a copy of the model with the quantized weights that a variant is made of.

        Cutting it gives what the shared network gives at once, for every channel has its scale.
        """
        copied = copy.deepcopy(model)
        quantize_weights(copied, self.config.quantization, self.layer_bits(levels).weights)
        return copied

    def weights_of(self, dimension: int, levels: Levels) -> list[Tensor]:
        """Return the weight matrices and kernels that a dimension decides on, narrowed.

        Args:
            dimension: Index of the dimension.
            levels: Of the variant, shape ``(D,)``; bits are not carried out.
        """
        if dimension < len(self.network.groups):
            return self.network.narrowed_weights(dimension, self.space.amounts(levels))
        layers = self.bits.layers_of(dimension)
        tensors = self.network.tensors
        names = (f"{layer}.weight" if layer else "weight" for layer in sorted(layers))
        return [tensors[name] for name in names if name in tensors]

    def kind_of(self, dimension: int) -> str:
        """Return the kind of the group that a dimension decides: see :class:`LayerGroup`."""
        if dimension < len(self.network.groups):
            return self.network.groups[dimension].kind
        name = self.space.dimensions[dimension].site
        return next((group.kind for group in self.groups if group.name == name), "linear")

    def masks(self, levels: Levels) -> dict[str, Tensor]:
        """Return which elements of each sparse weight a variant keeps; none where layers shrink."""
        return self.network.masks(self.space.amounts(levels))

    def kept_outputs(self, levels: Levels, *, ordered: bool) -> dict[str, Tensor]:
        """Return which output channels of each narrowed layer a variant keeps.

        Args:
            levels: Of the variant, shape ``(D,)``.
            ordered: Count channels in the shared network's order instead of the model's own.

        Returns:
            For each layer with a narrowed weight the indices of its kept output channels in the
            uncompressed layer, in the variant's order.
        """
        modules = dict(self.network.skeleton.named_modules())
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for index, width in enumerate(self.space.amounts(levels)[: len(self.parents)]):
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
