"""The compressor: everything needed to turn a compression policy into a variant of one target."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.compression.physical import History, cut
from rl_compress.compression.slimmable import SlimmableNetwork
from rl_compress.costs.activation_memory import ActivationMemory
from rl_compress.costs.analytic import AnalyticCosts
from rl_compress.errors import UnsupportedLayerError
from rl_compress.layers.axes import named_tensors
from rl_compress.layers.groups import LayerGroup, find_groups
from rl_compress.policy.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.policy.space_config import SpaceConfig
from rl_compress.pruning.importance import Norm, rank_units

logger = logging.getLogger(__name__)

_AGREEMENT = 1e-4
"""Largest difference of the two paths' outputs, relative to the largest output (float32)."""


@dataclass(slots=True)
class Compressor:
    """A target's groups, search space, costs, and shared weights."""

    groups: list[LayerGroup]
    """All groups in forward order, those that cannot be pruned with the reason."""
    notes: list[str]
    """What else the user should know of the model's layers."""
    space: SearchSpace
    """The widths of the prunable groups."""
    network: SlimmableNetwork
    costs: AnalyticCosts
    orders: list[npt.NDArray[np.int64]]
    """Units of each prunable group from most to least important."""

    @classmethod
    def prepare(
        cls, model: nn.Module, example_inputs: Sequence[Tensor], config: SpaceConfig
    ) -> Compressor:
        """Find what can be compressed in a model, and prove it by trial cuts.

        Args:
            model: The uncompressed model on the CPU, in evaluation mode; left as it is.
            example_inputs: Inputs of one forward pass, batch size 1.
            config: What may be pruned, and by how much.

        Raises:
            UnsupportedLayerError: The model cannot be traced or has no prunable group.
        """
        groups, notes = find_groups(model, example_inputs, config)
        norm: Norm = "l1" if config.pruning.importance == "l1" else "l2"
        groups = _try_groups(model, groups, example_inputs, norm)
        prunable = [group for group in groups if group.prunable]
        choices = [
            GroupChoices.from_config(
                group.name, group.num_units, group.channels // group.num_units, config.pruning
            )
            for group in prunable
        ]
        if not prunable:
            reasons = "; ".join(f"{group.name}: {group.reason}" for group in groups)
            raise UnsupportedLayerError(
                f"target: the model has no prunable group ({reasons or 'no layers found'}); "
                f"it needs convolutions or linear layers in front of its last layer"
            )
        orders = _orders(model, prunable, norm)
        space = SearchSpace(tuple(choices))
        network = SlimmableNetwork.from_model(model, prunable, orders)
        memory = ActivationMemory(network.variant, space, example_inputs)
        costs = AnalyticCosts(model, prunable, example_inputs, memory)
        if costs.fixed_macs:
            notes.append(
                f"{costs.fixed_macs:,d} MACs are in operations without a layer and count as fixed"
            )
        return cls(
            groups=groups,
            notes=notes,
            space=space,
            network=network,
            costs=costs,
            orders=orders,
        )

    def without_weights(self) -> Compressor:
        """Return the same without tensors, to be sent to workers that map them from a file."""
        network = SlimmableNetwork(self.network.skeleton, {}, self.network.groups)
        return dataclasses.replace(self, network=network)

    def cut(
        self, model: nn.Module, example_inputs: Sequence[Tensor], widths: Widths
    ) -> tuple[nn.Module, History]:
        """Cut the variant physically out of a copy of the model; see :func:`physical.cut`."""
        return cut(model, example_inputs, _removed(self.network.groups, self.orders, widths))

    def kept_outputs(self, widths: Widths, *, ordered: bool) -> dict[str, Tensor]:
        """Return which output channels of each narrowed layer a variant keeps.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
            ordered: Count channels in the shared network's order instead of the model's own.

        Returns:
            For each layer with a narrowed weight the indices of its kept output channels in the
            uncompressed layer, in the variant's order.
        """
        modules = dict(self.network.skeleton.named_modules())
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        for group, order, width in zip(self.network.groups, self.orders, widths, strict=True):
            dropped = np.arange(group.num_units)[width:] if ordered else order[width:]
            for axis in group.axes:
                layer, _, tensor = axis.tensor.rpartition(".")
                module = modules.get(layer)
                # The output axis of a weight is 0, and 1 in a transposed convolution.
                output_axis = int(bool(getattr(module, "transposed", False)))
                if tensor == "weight" and axis.axis == output_axis:
                    size = self.network.skeleton.get_parameter(axis.tensor).shape[output_axis]
                    mask = masks.setdefault(layer, np.ones(size, dtype=bool))
                    mask[axis.positions[dropped]] = False
        return {layer: torch.from_numpy(np.flatnonzero(mask)) for layer, mask in masks.items()}


def _orders(
    model: nn.Module, groups: Sequence[LayerGroup], norm: Norm
) -> list[npt.NDArray[np.int64]]:
    tensors = named_tensors(model)
    return [rank_units(tensors, group, norm) for group in groups]


def _removed(
    groups: Sequence[LayerGroup], orders: Sequence[npt.NDArray[np.int64]], widths: Widths
) -> dict[str, list[int]]:
    return {
        group.name: group.channel_indices(order[width:].tolist())
        for group, order, width in zip(groups, orders, widths, strict=True)
    }


def _try_groups(
    model: nn.Module, groups: Sequence[LayerGroup], example_inputs: Sequence[Tensor], norm: Norm
) -> list[LayerGroup]:
    """Cut half of every group in turn, and all together, and mark those that do not survive it."""
    tried = list(groups)
    for index, group in enumerate(tried):
        if group.prunable:
            reason = _trial_cut(model, [group], example_inputs, norm, physical=False)
            tried[index] = dataclasses.replace(group, reason=reason)
    prunable = [group for group in tried if group.prunable]
    if prunable and _trial_cut(model, prunable, example_inputs, norm, physical=True):
        # Together they fail: find those that fail alone, the slow way.
        for index, group in enumerate(tried):
            if group.prunable:
                reason = _trial_cut(model, [group], example_inputs, norm, physical=True)
                tried[index] = dataclasses.replace(group, reason=reason)
    return tried


def _trial_cut(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    example_inputs: Sequence[Tensor],
    norm: Norm,
    *,
    physical: bool,
) -> str | None:
    """Halve some groups and run the result; return what went wrong, or None."""
    widths = np.array([max(1, group.num_units // 2) for group in groups], dtype=np.int64)
    inputs = _noise_like(example_inputs)
    try:
        with torch.no_grad():
            orders = _orders(model, groups, norm)
            expected = model(*inputs)
            outputs = SlimmableNetwork.from_model(model, groups, orders).variant(widths)(*inputs)
            if outputs.shape != expected.shape:
                return "its channels are the model's output"
            if physical:
                smaller, _ = cut(model, example_inputs, _removed(groups, orders, widths))
                difference = (smaller.eval()(*inputs) - outputs).abs().max()
                if not difference <= _AGREEMENT * outputs.abs().max() + 1e-12:
                    return "a trial cut gave a wrong result (shared weights are sliced unevenly)"
    except Exception as error:
        logger.debug("trial cut of %s failed", groups[0].name, exc_info=error)
        return f"a trial cut failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def _noise_like(example_inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs that excite every channel; integer inputs stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in example_inputs
    ]
