"""Groups: the layers that must be narrowed together, because they share channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.layers.axes import (
    SUPPORTED,
    Axis,
    channel_groups,
    is_depthwise,
    layer_of,
    quantizable_weights,
    tensor_axes,
)
from rl_compress.layers.graph import trace
from rl_compress.policy.space_config import SpaceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that share channels, and where each shared unit lies in their tensors."""

    name: str
    """Name of the layer whose output channels define the units."""
    layers: tuple[str, ...]
    """All layers whose tensors become narrower, in the dependency graph's order."""
    producers: tuple[str, ...] = ()
    """Those of them that make the channels: whose bits the group decides."""
    kind: str
    """`conv`, `depthwise`, `grouped` or `linear`."""
    num_units: int
    channels: int
    """Output channels of the layer ``name``: ``num_units`` times the channels of a unit."""
    axes: tuple[Axis, ...] = field(repr=False)
    reason: str | None = None
    """Why the group cannot be pruned; None if it can."""

    @property
    def prunable(self) -> bool:
        """Say whether the group may be narrowed."""
        return self.reason is None

    def channel_indices(self, units: Sequence[int]) -> list[int]:
        """Return the output channels of the layer ``name`` that make up some units, increasing."""
        parts = range(0, self.channels, self.num_units)
        return sorted(unit + part for unit in units for part in parts)


def find_groups(
    model: nn.Module, example_inputs: Sequence[Tensor], config: SpaceConfig
) -> tuple[list[LayerGroup], list[str]]:
    """Find the groups of a model, in forward order of their first layers.

    Args:
        model: The target's model on the CPU, in evaluation mode.
        example_inputs: Inputs of one forward pass, batch first.
        config: Which layers to skip.

    Returns:
        The groups, those that cannot be pruned with the reason, and notes on whatever else the
        user should know: frozen, tied, unreached and unsupported layers.

    Raises:
        UnsupportedLayerError: The model cannot be traced.
    """
    graph = trace(model, example_inputs)
    order = forward_order(model, example_inputs)
    tied = _tied_tensors(model)
    protected = config.protected(quantizable_layers(model, order))
    groups = [
        _describe(graph, members, order, tied, config, protected)
        for members in graph.get_all_groups()
    ]
    groups.sort(key=lambda group: min(order.get(name, len(order)) for name in group.layers))
    return groups, _notes(model, order, tied)


def quantizable_layers(model: nn.Module, order: dict[str, int]) -> list[str]:
    """Return the convolutions and linear layers that are called, in forward order.

    Args:
        model: The network.
        order: See :func:`forward_order`.
    """
    layers = [layer_of(name) for name in quantizable_weights(model)]
    return sorted((name for name in layers if name in order), key=order.__getitem__)


def forward_order(model: nn.Module, example_inputs: Sequence[Tensor]) -> dict[str, int]:
    """Number the modules by their first call in a forward pass."""
    names = {module: name for name, module in model.named_modules()}
    order: dict[str, int] = {}

    def note(module: nn.Module, _inputs: Any) -> None:
        order.setdefault(names[module], len(order))

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.no_grad():
            model(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _tied_tensors(model: nn.Module) -> dict[str, list[str]]:
    """Return for each parameter name that shares its tensor the other names of that tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    modules: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        modules.setdefault(id(module), []).append(name)
    aliases = {alias for paths in modules.values() for alias in paths[1:]}
    tied: dict[str, list[str]] = {}
    for shared in names.values():
        # A module that is registered twice is one layer used twice, which is fine.
        distinct = [name for name in shared if name.rpartition(".")[0] not in aliases]
        for name in distinct if len(distinct) > 1 else []:
            tied[name] = [other for other in distinct if other != name]
    return tied


def _describe(
    graph: tp.DependencyGraph,
    members: tp.dependency.Group,
    order: dict[str, int],
    tied: dict[str, list[str]],
    config: SpaceConfig,
    protected: Sequence[str],
) -> LayerGroup:
    """Turn torch-pruning's group into ours."""
    items = [_Item.of(graph, entry) for entry in members.items]
    root = items[0]
    layers = [item for item in items if item.name]
    channels = len(root.indices)
    # Every part of a grouped layer must lose the same positions: a unit is one channel of each.
    parts = math.lcm(*(channel_groups(item.module) for item in layers))
    num_units = channels // parts
    axes: list[Axis] = []
    producers = tuple(dict.fromkeys(item.name for item in layers if item.produces))
    reason = _reason_against(items, channels, num_units, order, tied, config)
    if reason is None and (kept := [name for name in producers if name in protected]):
        reason = config.protection_of(kept[0], protected)
    if reason is None:
        try:
            axes = [axis for item in layers for axis in item.axes(num_units)]
        except NotImplementedError as error:
            reason = f"not supported: {error}"
    return LayerGroup(
        name=root.name,
        layers=tuple(dict.fromkeys(item.name for item in layers)),
        producers=producers,
        kind=_kind(layers, parts),
        num_units=num_units,
        channels=channels,
        axes=tuple(axes),
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry of torch-pruning's group: some channels of one layer, parameter or operation."""

    name: str
    """Name of the layer or bare parameter; empty for an operation such as concatenation."""
    module: Any
    output: bool
    indices: list[int]
    roots: list[int]
    """The output channel of the group's naming layer that each index belongs to."""
    parameter_axis: int | None

    @classmethod
    def of(cls, graph: tp.DependencyGraph, entry: Any) -> _Item:
        node = entry.dep.target
        module, axis = node.module, None
        if isinstance(module, nn.Parameter):
            name = graph._param_to_name[module]
            axis = next(axis for bare, axis in graph.unwrapped_parameters if bare is module)
        else:
            name = graph._module2name.get(module, "")
        return cls(
            name=name,
            module=module,
            output=graph.is_out_channel_pruning_fn(entry.dep.handler),
            indices=list(entry.idxs),
            roots=list(entry.root_idxs),
            parameter_axis=axis,
        )

    @property
    def produces(self) -> bool:
        """Say whether these are the output channels of a convolution or linear layer."""
        weighty = isinstance(self.module, nn.Linear | _ConvNd)
        return weighty and (self.output or is_depthwise(self.module))

    def tensors(self) -> list[tuple[str, int]]:
        """List full tensor names with the axis that this entry narrows."""
        if self.parameter_axis is not None:
            return [(self.name, self.parameter_axis)]
        return [
            (f"{self.name}.{tensor}" if self.name else tensor, axis)
            for tensor, axis in tensor_axes(self.module, output=self.output)
        ]

    def axes(self, num_units: int) -> list[Axis]:
        """Tell where each unit lies on the tensors.

        Raises:
            NotImplementedError: The units do not lie regularly.
        """
        indices = np.asarray(self.indices, dtype=np.int64)
        if not self.output and channel_groups(self.module) > 1 and not _is_norm(self.module):
            # The filters of a grouped convolution see only the channels of their own part.
            indices = indices % self.module.weight.shape[1]
        by_unit: list[set[int]] = [set() for _ in range(num_units)]
        for index, channel in zip(indices.tolist(), self.roots, strict=True):
            by_unit[channel % num_units].add(index)
        sizes = {len(found) for found in by_unit}
        if len(sizes) != 1 or sum(map(len, by_unit)) != len(set(indices.tolist())):
            raise NotImplementedError(f"the channels of {self.name} cannot be cut evenly")
        positions = np.array([sorted(found) for found in by_unit], dtype=np.int64)
        return [Axis(tensor, axis, positions) for tensor, axis in self.tensors()]


def _is_norm(module: Any) -> bool:
    return isinstance(module, nn.GroupNorm)


def _kind(layers: list[_Item], parts: int) -> str:
    if isinstance(layers[0].module, nn.Linear):
        return "linear"
    if any(is_depthwise(item.module) for item in layers):
        return "depthwise"
    return "grouped" if parts > 1 else "conv"


def _reason_against(
    items: list[_Item],
    channels: int,
    num_units: int,
    order: dict[str, int],
    tied: dict[str, list[str]],
    config: SpaceConfig,
) -> str | None:
    """Return why a group must not be pruned, or None."""
    layers = [item for item in items if item.name]
    for item in layers:
        if config.skips(item.name):
            return f"{item.name} is listed in space.skip"
        if item.parameter_axis is None and not isinstance(item.module, SUPPORTED):
            return f"not supported: layer {item.name} of kind {type(item.module).__name__}"
        own = (
            [item.name]
            if item.parameter_axis is not None
            else [f"{item.name}.{name}" for name, _ in item.module.named_parameters()]
        )
        for name in own:
            if name in tied:
                return f"{name} shares its tensor with {', '.join(tied[name])} (tied)"
    if items[0].name not in order:
        return "its layer is not called in the forward pass"
    if num_units * (channels // num_units if num_units else 1) != channels or num_units < 2:
        return "it has a single unit"
    return None


def _notes(model: nn.Module, order: dict[str, int], tied: dict[str, list[str]]) -> list[str]:
    """Say what discovery noticed about the whole model."""
    notes = []
    frozen = [name for name, tensor in model.named_parameters() if not tensor.requires_grad]
    if frozen:
        notes.append(
            f"{len(frozen)} frozen tensor(s) ({_some(frozen)}) are compressed and fine-tuned like "
            f"the others; list their layers in space.skip to leave them as they are"
        )
    for name, others in tied.items():
        if name < min(others):
            notes.append(f"{name} shares its tensor with {', '.join(others)}")
    unreached = [
        name
        for name, module in model.named_modules()
        if name not in order and next(module.parameters(recurse=False), None) is not None
    ]
    if unreached:
        notes.append(
            f"{len(unreached)} layer(s) ({_some(unreached)}) are not called as modules in the "
            f"forward pass and stay as they are"
        )
    kinds = {
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and isinstance(module, nn.RNNBase | nn.MultiheadAttention)
    }
    if kinds:
        notes.append(f"layers of unsupported kinds stay as they are: {_some(sorted(kinds))}")
    return notes


def _some(names: Sequence[str], limit: int = 4) -> str:
    """Name the first few of many."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
