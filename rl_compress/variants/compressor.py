"""The compressor: everything needed to turn a compression policy into a variant of one target."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.importance.contribution import Train
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.model.axes import Axis
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import quantize_weights
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target
from rl_compress.variants.copied_out import copied_out
from rl_compress.variants.parts import Parts
from rl_compress.variants.preparation import prepare_parts


@dataclass(slots=True)
class Compressor(Parts):
    """Makes variants of one target, the fast way or for good."""

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
        parts = prepare_parts(model, example_inputs, config, target, contribution, train)
        return cls(**{field.name: getattr(parts, field.name) for field in fields(Parts)})

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
