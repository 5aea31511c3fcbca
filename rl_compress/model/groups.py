"""Groups: the layers that must be narrowed together, because they share channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.model.axes import (
    Axis,
    layer_of,
    named_tensors,
    output_axis,
    quantizable_weights,
    unsupported_layers,
)
from rl_compress.model.graph import Graph, trace
from rl_compress.model.layers import is_depthwise
from rl_compress.model.nested import Inputs
from rl_compress.model.positions import FIXED, Ids
from rl_compress.space.space_config import SpaceConfig

_Key = tuple[tuple[str, int, int], ...]
"""Where the positions of a unit lie: tensor, axis, and how many of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that share channels, and where each shared unit lies in their tensors."""

    name: str
    """Name of the layer whose output channels define the units."""
    layers: tuple[str, ...]
    """All layers whose tensors become narrower, in forward order."""
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


@dataclass(frozen=True, slots=True)
class FoundGroups:
    """The groups of a model, and the graph that they were found in."""

    graph: Graph
    groups: list[LayerGroup]
    notes: list[str]
    """What else the user should know of the model's layers."""
    _group_of: Ids = field(repr=False)
    _unit_of: Ids = field(repr=False)

    def units_of(self, ids: Ids) -> tuple[Ids, Ids]:
        """Look up positions.

        Args:
            ids: Positions on an axis, shape ``(n,)``.

        Returns:
            For each the index of its group, -1 where it is in none, and its unit, shape ``(n,)``.
        """
        return self._group_of[ids], self._unit_of[ids]


def find_groups(
    model: nn.Module,
    example_inputs: Inputs,
    config: SpaceConfig,
    choices: Mapping[int, int] | None = None,
) -> FoundGroups:
    """Find the groups of a model, in forward order of their first layers.

    Args:
        model: The target's model on the CPU, in evaluation mode.
        example_inputs: Inputs of one forward pass, batch first.
        config: Which layers to skip.
        choices: See :func:`~rl_compress.model.graph.trace`.

    Returns:
        The groups, those that cannot be pruned with the reason, and notes on whatever else the
        user should know: frozen, tied, unreached and unsupported layers.

    Raises:
        UnsupportedLayerError: The model cannot be traced.
    """
    graph = trace(model, example_inputs, choices)
    tied = _tied_tensors(model)
    groups, sets = _Finder(model, graph, config, tied).find()
    group_of = np.full(len(graph.positions), -1, dtype=np.int64)
    unit_of = group_of.copy()
    for index, roots in enumerate(sets):
        group_of[roots], unit_of[roots] = index, np.arange(len(roots))
    all_sets = graph.positions.sets(np.arange(len(graph.positions)))
    notes = _notes(model, graph.order, tied)
    return FoundGroups(graph, groups, notes, group_of[all_sets], unit_of[all_sets])


def quantizable_layers(model: nn.Module, order: Mapping[str, int]) -> list[str]:
    """Return the convolutions and linear layers that are called, in forward order.

    Args:
        model: The network.
        order: Numbers of the modules' first calls, as in a :class:`Graph`.
    """
    layers = [layer_of(name) for name in quantizable_weights(model)]
    return sorted((name for name in layers if name in order), key=order.__getitem__)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where each set of positions lies on the axes of tensors."""

    sets: Ids
    """Numbers of the sets, increasing, shape ``(sets,)``."""
    _axes: list[tuple[str, int]]
    _indices: Ids
    """Indices on the axes, ordered by set and then by axis."""
    _starts: Ids
    """Where each pair of a set and an axis begins among them."""
    _counts: Ids
    _on: Ids
    """The axis of each pair."""
    _first: Ids
    """The first pair of each set, and behind the last set their number."""

    @classmethod
    def of(cls, axes: Sequence[tuple[str, int, Ids]]) -> _Places:
        """Gather the sets of the positions on axes."""
        nothing = np.zeros(0, dtype=np.int64)
        on = [np.full(len(ids), i) for i, (_, _, ids) in enumerate(axes)]
        number = np.concatenate([nothing, *on])
        index = np.concatenate([nothing, *(np.arange(len(ids)) for _, _, ids in axes)])
        owner = np.concatenate([nothing, *(ids for _, _, ids in axes)])
        order = np.lexsort((index, number, owner))
        order = order[owner[order] != FIXED]
        pairs = owner[order] * max(len(axes), 1) + number[order]
        pairs, starts, counts = np.unique(pairs, return_index=True, return_counts=True)
        sets, first = np.unique(pairs // max(len(axes), 1), return_index=True)
        return cls(
            sets,
            [(tensor, axis) for tensor, axis, _ in axes],
            index[order],
            starts,
            counts,
            pairs % max(len(axes), 1),
            np.append(first, len(pairs)),
        )

    def alike(self, reasons: Mapping[int, str]) -> Iterator[tuple[_Key, str | None, Ids]]:
        """Yield the sets that lie on the same axes and stay for the same reason.

        Yields:
            Where they lie, the reason, and their rows in :attr:`sets`.
        """
        rows: dict[tuple[bytes, str | None], list[int]] = {}
        for row, number in enumerate(self.sets.tolist()):
            pairs = slice(self._first[row], self._first[row + 1])
            where = self._on[pairs].tobytes() + self._counts[pairs].tobytes()
            rows.setdefault((where, reasons.get(number)), []).append(row)
        for (_, reason), members in rows.items():
            pairs = slice(self._first[members[0]], self._first[members[0] + 1])
            on = [self._axes[number] for number in self._on[pairs].tolist()]
            key = tuple(
                (tensor, axis, count)
                for (tensor, axis), count in zip(on, self._counts[pairs].tolist(), strict=True)
            )
            yield key, reason, np.array(members)

    def positions(self, rows: Ids) -> list[Ids]:
        """Return for each axis the indices of some sets that lie alike, shape ``(sets, n)``."""
        first = self._first[rows]
        number = self._first[rows[0] + 1] - first[0]
        found = []
        for pair in range(number):
            starts, count = self._starts[first + pair], self._counts[first[0] + pair]
            found.append(self._indices[starts[:, None] + np.arange(count)])
        return found


class _Finder:
    """Gathers sets of positions that lie alike into groups."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        config: SpaceConfig,
        tied: Mapping[str, Sequence[str]],
    ) -> None:
        self._graph, self._config, self._tied = graph, config, tied
        self._modules = dict(model.named_modules())
        self._tensors = named_tensors(model)
        self._protected = config.protected(quantizable_layers(model, graph.order))
        self._made = np.zeros(len(graph.positions), dtype=bool)
        for op in graph.operations:
            for ids in op.made:
                self._made[ids] = True
        self._rank = _naming_order(graph, set(quantizable_weights(model)))

    def find(self) -> tuple[list[LayerGroup], list[Ids]]:
        """Return the groups in forward order, and for each the set of positions of every unit."""
        found: list[tuple[LayerGroup, Ids]] = []
        used: set[str] = set()
        places = self._places()
        for key, reason, rows in places.alike(self._graph.positions.reasons()):
            if any(self._produces(tensor, axis) for tensor, axis, _ in key):
                found.append(self._describe(key, reason, places, rows))
        found.sort(key=lambda pair: (self._position(pair[0]), not pair[0].prunable))
        groups: list[LayerGroup] = []
        units: list[Ids] = []
        for group, roots in found:
            # A layer whose outputs fall into several groups names the first of them that can be
            # pruned; of the rest only those that can be are told.
            name, number = group.name, 2
            while name in used:
                name, number = f"{group.name}#{number}", number + 1
            if name != group.name and not group.prunable:
                continue
            used.add(name)
            units.append(roots)
            groups.append(replace(group, name=name))
        grouped = {layer for group in groups for layer in group.producers}
        alone = list(self._left_alone(grouped))
        groups += alone
        units += [np.zeros(0, dtype=np.int64)] * len(alone)
        by_order = sorted(range(len(groups)), key=lambda index: self._position(groups[index]))
        return [groups[index] for index in by_order], [units[index] for index in by_order]

    def _position(self, group: LayerGroup) -> int:
        """Return when the first of a group's layers is called."""
        order = self._graph.order
        return min(order.get(name, len(order)) for name in group.layers)

    def _left_alone(self, grouped: set[str]) -> Iterator[LayerGroup]:
        """Yield the layers that are called and whose outputs are in no group."""
        for name, module in self._modules.items():
            if not isinstance(module, nn.Linear | _ConvNd) or name in grouped:
                continue
            if name not in self._graph.order:
                continue
            weight = f"{name}.weight" if name else "weight"
            outputs = module.weight.shape[output_axis(module, "weight") or 0]
            if weight in self._tied:
                reason = _tie(weight, self._tied)
            elif outputs == 1:
                reason = "it has a single unit"
            else:
                reason = "its channels are not used"
            kind = self._kind(name, [name], 1)
            yield LayerGroup(
                name=name,
                layers=(name,),
                kind=kind,
                num_units=outputs,
                channels=outputs,
                axes=(),
                reason=reason,
            )

    def _places(self) -> _Places:
        """Return where all positions lie, tensors in the model's order."""
        axes = [
            (tensor, axis, self._graph.positions.sets(ids))
            for tensor in self._tensors
            for axis, ids in enumerate(self._graph.tensors.get(tensor, ()))
            if ids is not None
        ]
        return _Places.of(axes)

    def _produces(self, tensor: str, axis: int) -> bool:
        """Say whether an axis makes channels: that of a layer's outputs."""
        ids = self._graph.tensors[tensor][axis]
        return ids is not None and bool(self._made[ids].any())

    def _owner(self, tensor: str) -> str:
        """Name what a tensor is part of: its layer, or itself if it belongs to the whole model."""
        layer = layer_of(tensor)
        has_axes = output_axis(self._modules[layer], tensor.rpartition(".")[2]) is not None
        return layer if layer or has_axes else tensor

    def _describe(
        self, key: _Key, reason: str | None, places: _Places, rows: Ids
    ) -> tuple[LayerGroup, Ids]:
        order = self._graph.order
        last = len(order)
        owners = dict.fromkeys(self._owner(tensor) for tensor, _, _ in key)
        layers = sorted(owners, key=lambda name: order.get(name, last))
        makers = dict.fromkeys(
            self._owner(tensor) for tensor, axis, _ in key if self._produces(tensor, axis)
        )
        producers = sorted(makers, key=lambda name: order.get(name, last))
        name = min(producers, key=lambda layer: self._rank.get(layer, len(self._rank)))
        first = next(
            number
            for number, (tensor, axis, _) in enumerate(key)
            if self._owner(tensor) == name and self._produces(tensor, axis)
        )
        positions = places.positions(rows)
        by_place = np.argsort(positions[first][:, 0])
        count, per_unit = positions[first].shape
        own = self._reason_against(layers, key, count)
        if own is None and (kept := [layer for layer in producers if layer in self._protected]):
            own = self._config.protection_of(kept[0], self._protected)
        reason = own or reason
        group = LayerGroup(
            name=name,
            layers=tuple(layers),
            producers=tuple(producers),
            kind=self._kind(name, layers, per_unit),
            num_units=count,
            channels=count * per_unit,
            axes=tuple(
                Axis(tensor, axis, along[by_place])
                for (tensor, axis, _), along in zip(key, positions, strict=True)
            ),
            reason=reason,
        )
        return group, places.sets[rows[by_place]]

    def _kind(self, name: str, layers: Sequence[str], per_unit: int) -> str:
        if not isinstance(self._modules.get(name), _ConvNd):
            return "linear"
        modules = [self._modules[layer] for layer in layers if layer in self._modules]
        if any(map(is_depthwise, modules)):
            return "depthwise"
        parted = any(getattr(module, "groups", 1) > 1 for module in modules)
        return "grouped" if parted or per_unit > 1 else "conv"

    def _reason_against(self, layers: Sequence[str], key: _Key, count: int) -> str | None:
        """Return why a group must not be pruned, as far as that is not in the graph."""
        for layer in layers:
            if self._config.skips(layer):
                return f"{layer} is listed in space.skip"
        for tensor, _, _ in key:
            for name in self._siblings(tensor):
                if name in self._tied:
                    return _tie(name, self._tied)
        return "it has a single unit" if count < 2 else None

    def _siblings(self, tensor: str) -> Iterator[str]:
        """Yield the names of all tensors of a tensor's layer."""
        layer = layer_of(tensor)
        module = self._modules[layer]
        for name, _ in module.named_parameters(recurse=False):
            yield f"{layer}.{name}" if layer else name


def _tie(name: str, tied: Mapping[str, Sequence[str]]) -> str:
    return f"{name} shares its tensor with {', '.join(tied[name])} (tied)"


def _naming_order(graph: Graph, weights: set[str]) -> dict[str, int]:
    """Number layers as they are met on the way back from the outputs, depth first.

    The first of a group's layers names it, so that the policies of earlier releases, which took
    the names from a graph that was walked in this order, stay valid.
    """
    found: dict[str, int] = {}
    stack, seen = list(graph.results), set()

    def note(index: int) -> None:
        for product in graph.operations[index].products:
            if product.weight in weights:
                found.setdefault(layer_of(product.weight), len(found))

    for index in stack:
        note(index)
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        for source in graph.sources[index]:
            if source >= 0:
                note(source)
                stack.append(source)
    return found


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


def _notes(model: nn.Module, order: Mapping[str, int], tied: dict[str, list[str]]) -> list[str]:
    """Say what discovery noticed about the whole model."""
    notes = []
    frozen = [name for name, tensor in model.named_parameters() if not tensor.requires_grad]
    if frozen:
        notes.append(
            f"{len(frozen)} frozen tensor(s) ({some(frozen)}) are compressed and fine-tuned like "
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
            f"{len(unreached)} layer(s) ({some(unreached)}) are not called as modules in the "
            f"forward pass and stay as they are"
        )
    kinds = [f"{name} ({kind})" for name, kind in unsupported_layers(model).items()]
    if kinds:
        notes.append(f"layers of unsupported kinds stay as they are: {some(sorted(kinds))}")
    return notes


def some(names: Sequence[str], limit: int = 4) -> str:
    """Name the first few of many."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
