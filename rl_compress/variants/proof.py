"""The proof: every group is held against the original model before the search relies on it.

A narrower variant must compute what the original does when the removed units do not take part:
where an operation sums over them they are masked, and where one takes statistics over them, as a
LayerNorm does, they are left out. A permuted variant of full width must compute the same as the
model. All groups are narrowed together, to random units, at several widths; results are compared
after every operation, so that what is wrong is found where it begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rl_compress.errors import UnsupportedLayerError
from rl_compress.model.axes import Axis, named_tensors
from rl_compress.model.groups import FoundGroups, LayerGroup, find_groups
from rl_compress.model.kept_state import kept_state, own_buffers
from rl_compress.model.nested import Inputs, call, mapped, tensors_in
from rl_compress.model.operation import Operation, Reduction
from rl_compress.model.positions import Ids, varies
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.copied_out import copied_out
from rl_compress.variants.lively import in_double, lively_model, quietly
from rl_compress.variants.slimmable import SlimmableNetwork, copy_with, in_order

logger = logging.getLogger(__name__)

_AGREEMENT = 2e-3
"""Largest difference of two results, relative to the largest value; one channel too many in a layer
of a thousand makes about 3e-2."""

_SAMPLED = 12
"""Places on each axis at which results are compared."""

_Width = Callable[[int, int], int]
"""From a group's units, and its index, to the units kept in a trial."""

_WIDTHS: tuple[_Width, ...] = (
    lambda units, _: units - 1,
    lambda units, _: units,
    lambda units, index: round(0.7 * units) - index % 3,
    lambda units, _: (units // 2) | 1,
)
"""One unit less, all of them in another order, 70 % or a little less, and half (an odd number).
Groups of one size differ in the third: a model may give one tensor the channels of another."""

_PATIENCE = 12
"""Groups that fail before one that does takes along all of its kind, as in a model of many blocks
that are left alone for the same reason."""

Order = npt.NDArray[np.int64]


def find_proved_groups(
    model: nn.Module, example_inputs: Inputs, config: SpaceConfig
) -> FoundGroups:
    """Find the groups of a model, and mark those that do not stand the proof.

    Where an axis falls into several, as heads and their channels, a unit is a place on one of them:
    the innermost, unless the proof fails and another one stands it.

    Args:
        model: The uncompressed model on the CPU, in evaluation mode; left as it is.
        example_inputs: Inputs of one forward pass, batch first.
        config: Which layers to skip.

    Raises:
        UnsupportedLayerError: The model cannot be run.
    """
    choices: dict[int, int] = {}
    while True:
        found = find_groups(model, example_inputs, config, choices)
        trials = _Trials(model, found, example_inputs)
        trials.hold(_WIDTHS[0])
        if not (others := _other_ways(found, trials.good)):
            break
        choices |= others
    for width in _WIDTHS[1:]:
        trials.hold(width)
    trials.hold(lambda units, _: _smallest(units, config))
    groups = [
        replace(group, reason=trials.reasons.get(index, group.reason))
        for index, group in enumerate(found.groups)
    ]
    return replace(found, groups=groups)


def _smallest(units: int, config: SpaceConfig) -> int:
    """Return the fewest units that a search may leave."""
    if config.action == "mask":
        return 1
    return math.ceil(units * (1.0 - config.pruning.max_ratio) - 1e-9)


def _other_ways(found: FoundGroups, good: Sequence[int]) -> dict[int, int]:
    """Return the operations that split an axis in vain, and which way to try next."""
    others = {}
    for op in found.graph.operations:
        if op.split is not None and op.choice + 1 < op.ways:
            groups, _ = found.units_of(op.split)
            if not np.isin(groups, good).all():
                others[op.index] = op.choice + 1
    return others


def _kind(group: LayerGroup) -> str:
    """Return what groups in repeated blocks have in common."""
    *path, last = group.name.split(".")
    return ".".join(["#" if part.isdigit() else part for part in path] + [last])


class _Trials:
    """Groups that have stood all trials so far, and why others have not."""

    def __init__(self, model: nn.Module, found: FoundGroups, inputs: Inputs) -> None:
        self.reasons: dict[int, str] = {}
        self.good = [index for index, group in enumerate(found.groups) if group.prunable]
        self._found = found
        self._generator = np.random.default_rng(0)
        tensors = {axis.tensor for index in self.good for axis in found.groups[index].axes}
        self._subject = _Subject(*lively_model(model, tensors, inputs))
        self._exact: _Subject | None = None

    def hold(self, width: _Width) -> None:
        """Narrow all groups together, until those that are left agree with the model."""
        counts = [group.num_units for group in self._found.groups]
        orders = [self._generator.permutation(count) for count in counts]
        alone: dict[int, bool] = {}  # whether a group stands the trial when it is the only one
        while self.good:
            failure = self._try(self.good, width, orders)
            if failure is None:
                return
            # Together they hide who it is: the first that fails alone, or else the most likely.
            guilty = failure.suspects[0]
            for index in failure.suspects if len(failure.suspects) > 1 else ():
                if index not in alone:
                    alone[index] = self._try([index], width, orders) is None
                if not alone[index]:
                    guilty = index
                    break
            # After many of them, so that the proof ends soon, all of a kind that fails together;
            # who stands the trial alone may be blamed for another, and so may its kind.
            is_sure = len(failure.suspects) == 1 or not alone[guilty]
            kin = self._kin(guilty) if is_sure and len(self.reasons) >= _PATIENCE else []
            if kin and self._try(kin, width, orders) is None:
                kin = []
            for index in (guilty, *kin):
                self.good.remove(index)
                self.reasons[index] = failure.reason
                logger.debug("%s: %s", self._found.groups[index].name, failure.reason)

    def _kin(self, index: int) -> list[int]:
        """Return the other groups that are at the same place of repeated blocks."""
        kind = _kind(self._found.groups[index])
        return [i for i in self.good if i != index and _kind(self._found.groups[i]) == kind]

    def _try(
        self, indices: Sequence[int], width: _Width, all_orders: Sequence[Order]
    ) -> _Failure | None:
        """Narrow some groups to the first units of their orders; return what is wrong then."""
        groups = [self._found.groups[index] for index in indices]
        orders = [all_orders[index] for index in indices]
        numbered = zip(indices, orders, strict=True)
        kept = [min(max(width(len(own), index), 1), len(own)) for index, own in numbered]
        pairs = zip(orders, kept, strict=True)
        cut = _Cut(self._found, dict(zip(indices, pairs, strict=True)))
        failure = self._compared(self._subject, cut, groups, orders, kept)
        if failure is None or not failure.in_values or self._subject is self._exact:
            return failure
        # Deep networks blow rounding up, so double precision decides.
        self._exact = self._exact or self._subject.doubled()
        surely = self._compared(self._exact, cut, groups, orders, kept)
        if surely is None:
            self._subject = self._exact
            return None
        return surely if surely.in_values else failure

    def _compared(
        self,
        subject: _Subject,
        cut: _Cut,
        groups: Sequence[LayerGroup],
        orders: Sequence[Order],
        kept: Sequence[int],
    ) -> _Failure | None:
        """Compare a variant with the original."""
        indices = cut.indices
        follower = _Follower(self._found.graph.operations, cut)
        try:
            variant = subject.variant(groups, orders, kept)
            with quietly(), follower:
                outputs = call(variant, subject.inputs)
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            reason = f"a trial cut failed ({type(error).__name__}: {text})"
            return _Failure(follower.suspects() or list(indices), reason)
        reference = _Reference(self._found.graph.operations, cut, follower.samples)
        try:
            with kept_state(subject.model), quietly(), reference:
                expected = call(subject.model, subject.inputs)
        except Exception as error:
            reason = f"a trial cut cannot be compared with the model ({error!r:.100})"
            return _Failure(list(indices), reason)
        if reference.wrong is not None:
            here = cut.groups_of(self._found.graph.operations[reference.wrong])
            reason = "a trial cut gave a wrong result (its channels are not where they seem to be)"
            return _Failure(here or list(indices), reason, in_values=True)
        if not _all_agree(outputs, expected):
            reason = "a trial cut gave a wrong result (the model's output differs)"
            return _Failure(list(indices), reason, in_values=True)
        return None


@dataclass(frozen=True, slots=True)
class _Subject:
    """The original in trials, and what it is called with."""

    model: nn.Module
    inputs: Inputs

    def doubled(self) -> _Subject:
        """Return the same in double precision."""
        tensors = {name: in_double(t.detach()) for name, t in named_tensors(self.model).items()}
        model = copy_with(self.model, tensors, trainable=True)
        return _Subject(model, mapped(in_double, self.inputs))

    def variant(
        self, groups: Sequence[LayerGroup], orders: Sequence[Order], kept: Sequence[int]
    ) -> nn.Module:
        """Return the network without the last units of each order, or with all in that order."""
        if all(width == len(order) for order, width in zip(orders, kept, strict=True)):
            tensors = {name: t.detach() for name, t in named_tensors(self.model).items()}
            ordered = in_order(tensors, groups, orders)
            return own_buffers(copy_with(self.model, ordered, trainable=True))
        removed = [
            Axis(axis.tensor, axis.axis, axis.positions[order[width:]])
            for group, order, width in zip(groups, orders, kept, strict=True)
            for axis in group.axes
        ]
        return copied_out(self.model, removed)


@dataclass(frozen=True, slots=True)
class _Failure:
    suspects: list[int]
    """Indices of the groups that may be the cause, the most likely first."""
    reason: str
    in_values: bool = False
    """Results have the right shapes, but other values."""


class _Cut:
    """Which units of which groups are removed, and what that makes of an axis."""

    def __init__(self, found: FoundGroups, groups: Mapping[int, tuple[Order, int]]) -> None:
        """Keep for each group that is narrowed its units in order, and how many are kept."""
        self._found = found
        group_of, unit_of = found.units_of(np.arange(len(found.graph.positions)))
        self._narrowed = np.isin(group_of, list(groups))
        self._stays = np.ones(len(group_of), dtype=bool)
        # Units numbered through: what a place held, and what it holds now.
        self._before = np.full(len(group_of), -1, dtype=np.int64)
        self._after = self._before.copy()
        start = 0
        whole = all(width == len(order) for order, width in groups.values())
        for index, (order, width) in groups.items():
            here = group_of == index
            units = unit_of[here]
            removed = np.ones(len(order), dtype=bool)
            removed[order[:width]] = False
            self._stays[here] = ~removed[units]
            # What is cut keeps its order; only a variant with all its units is put in another.
            holds = order[units] if whole else units
            self._before[here], self._after[here] = start + units, start + holds
            start += len(order)
        self.indices = list(groups)
        self._group_of = group_of
        self._known: dict[int, Order | None] = {}

    def groups_of(self, op: Operation) -> list[int]:
        """Return the narrowed groups that are on the axes of an operation."""
        ids = [ids for labels in (*op.inputs, *op.outputs) for ids in labels if varies(ids)]
        found = {index for each in ids for index in np.unique(self._group_of[each]).tolist()}
        return sorted(found.intersection(self.indices))

    def kept(self, ids: Ids) -> Order:
        """Return the indices on an axis that are not removed, increasing."""
        return np.flatnonzero(self._stays[ids])

    def sources(self, ids: Ids) -> Order | None:
        """Return for each index on the narrowed axis the one it has on the original's.

        None: units of a group are on the axis that are not all there.
        """
        if id(ids) not in self._known:
            self._known[id(ids)] = self._sources(ids)
        return self._known[id(ids)]

    def _sources(self, ids: Ids) -> Order | None:
        moved = np.flatnonzero(self._narrowed[ids])
        source = np.arange(len(ids))
        before, after = self._before[ids[moved]], self._after[ids[moved]]
        held, holds = np.argsort(before, kind="stable"), np.argsort(after, kind="stable")
        if not np.array_equal(before[held], after[holds]):
            return None
        source[moved[holds]] = moved[held]
        # A place is cut if what it holds now is removed.
        return source[self._stays[ids[source]]]


class _Follower(TorchDispatchMode):
    """Runs along with a variant: checks its shapes, and takes samples of its results."""

    def __init__(self, operations: Sequence[Operation], cut: _Cut) -> None:
        super().__init__()
        self.samples: dict[int, Tensor] = {}
        self._operations, self._cut = operations, cut
        self._done, self._lost = 0, False

    def suspects(self) -> list[int]:
        """Return the groups on axes before an exception, those of the last operation first."""
        reached = self._operations[: self._done + 1]
        found: dict[int, None] = {}
        for op in reversed(reached):
            # What the failing module was given is in it; beyond it only the nearest are suspects,
            # unless the variant took another way, so that it is not known where it failed.
            if found and not self._lost and not op.layer.startswith(reached[-1].layer):
                break
            found.update(dict.fromkeys(self._cut.groups_of(op)))
        return list(found)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._lost:
            self._lost = (
                self._done >= len(self._operations) or self._operations[self._done].func is not func
            )
        results = func(*args, **(kwargs or {}))
        if not self._lost:
            op = self._operations[self._done]
            first = next((r for r in tree_leaves(results) if isinstance(r, Tensor)), None)
            if first is not None and op.outputs:
                self._look_at(op, first)
        self._done += 1
        return results

    def _look_at(self, op: Operation, result: Tensor) -> None:
        if (sources := _sources(op, self._cut)) is None or not _comparable(op, result):
            return
        sizes = [len(source) if source is not None else None for source in sources]
        for axis, size in enumerate(sizes):
            if size is not None and result.shape[axis] != size:
                raise ValueError(
                    f"{op.place}: {result.shape[axis]} channels where {size} are expected"
                )
        self.samples[op.index] = _sample(result)


class _Reference(TorchDispatchMode):
    """Runs the original with the removed units out of the way, and compares what it gives."""

    def __init__(
        self, operations: Sequence[Operation], cut: _Cut, samples: Mapping[int, Tensor]
    ) -> None:
        super().__init__()
        self.wrong: int | None = None
        """The first operation whose results differ."""
        self._operations, self._cut, self._samples = operations, cut, samples
        self._done = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, index = kwargs or {}, self._done
        self._done += 1
        if index >= len(self._operations) or self._operations[index].func is not func:
            return func(*args, **kwargs)
        op = self._operations[index]
        results = _without(op, self._cut, args, kwargs) if op.reductions else func(*args, **kwargs)
        if self.wrong is None and (sample := self._samples.get(index)) is not None:
            first = next(r for r in tree_leaves(results) if isinstance(r, Tensor))
            if not _agree(sample, _sample(first, _sources(op, self._cut))):
                self.wrong = index
        return results


def _sources(op: Operation, cut: _Cut) -> list[Order | None] | None:
    """Return where the indices on the axes of a narrowed result come from; None: not known."""
    sources: list[Order | None] = []
    for ids in op.outputs[0]:
        if not varies(ids):
            sources.append(None)
            continue
        assert ids is not None, "what varies is known"
        if (source := cut.sources(ids)) is None:
            return None
        sources.append(source)
    return sources


def _comparable(op: Operation, result: Tensor) -> bool:
    return (
        result.is_floating_point()
        and result.numel() > 0
        and not op.name.startswith(("empty", "new_empty", "rand", "_weight_norm"))
    )


def _sample(result: Tensor, sources: Sequence[Order | None] | None = None) -> Tensor:
    """Return a result at a few places of each axis, evenly spread.

    Args:
        result: Of a variant, or of the original.
        sources: For each axis of the original where the variant's indices come from.
    """
    for axis, size in enumerate(result.shape):
        source = None if sources is None else sources[axis]
        length = size if source is None else len(source)
        if length > _SAMPLED or source is not None:
            places = np.linspace(0, length - 1, min(length, _SAMPLED)).round().astype(np.int64)
            chosen = places if source is None else source[places]
            result = result.index_select(axis, torch.from_numpy(chosen))
    return result.detach().to(torch.float64, copy=True)


def _all_agree(outputs: Any, expected: Any) -> bool:
    """Say whether two models' outputs agree, tensor by tensor."""
    one, other = list(tensors_in(outputs)), list(tensors_in(expected))
    return len(one) == len(other) and all(map(_agree, one, other))


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return bool((one == other).all())
    finite = other.isfinite()
    if not torch.equal(finite, one.isfinite()):
        return False
    largest = other[finite].abs().max().item() if finite.any() else 0.0
    difference = (one - other)[finite].abs().max().item() if finite.any() else 0.0
    return difference <= _AGREEMENT * largest + 1e-6


def _without(op: Operation, cut: _Cut, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of the original as if the removed units were not there."""
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    replaced: dict[int, Tensor] = {}

    def swap(value: Any) -> Any:
        return replaced.get(id(value), value) if isinstance(value, Tensor) else value

    statistics: list[tuple[Reduction, Tensor]] = []
    for reduction in op.reductions:
        operand = operands[reduction.operand]
        kept = torch.from_numpy(cut.kept(reduction.ids))
        if len(kept) == len(reduction.ids):
            continue
        if reduction.whole:
            mask = torch.zeros(len(reduction.ids), dtype=operand.dtype)
            mask[kept] = 1
            shape = [1] * operand.ndim
            shape[reduction.axis] = -1
            current = replaced.get(id(operand), operand)
            replaced[id(operand)] = current * mask.reshape(shape)
        else:
            statistics.append((reduction, kept))
    for reduction, kept in statistics:
        for tensor, axis in _along(op, reduction, operands):
            current = replaced.get(id(tensor), tensor)
            replaced[id(tensor)] = current.index_select(axis, kept)
    args, kwargs = tree_map(swap, args), tree_map(swap, kwargs)
    if statistics:
        args = _fewer(op, args, statistics)
    results = op.func(*args, **kwargs)
    if op.name not in ("native_layer_norm", "native_group_norm", "native_batch_norm"):
        return results
    # Of these the result has the axis too; the places of removed units are filled with zeros.
    several = isinstance(results, tuple | list)
    first = results[0] if several else results
    for reduction, kept in statistics:
        wide = first.new_zeros(
            *first.shape[: reduction.axis], len(reduction.ids), *first.shape[reduction.axis + 1 :]
        )
        first = wide.index_copy_(reduction.axis, kept, first)
    return (first, *results[1:]) if several else first


def _along(
    op: Operation, reduction: Reduction, operands: Sequence[Tensor]
) -> Iterator[tuple[Tensor, int]]:
    """Yield the operands that have the axis of some statistics, with their own axis."""
    source = operands[reduction.operand]
    yield source, reduction.axis
    if op.name == "native_layer_norm":
        for tensor in operands[1:]:
            yield tensor, reduction.axis - (source.ndim - tensor.ndim)
    elif op.name == "native_group_norm":
        for tensor in operands[1:]:
            yield tensor, 0


def _fewer(op: Operation, args: Any, statistics: Sequence[tuple[Reduction, Tensor]]) -> Any:
    """Put the number of units kept where a normalisation is told of it."""
    if op.name == "native_layer_norm":
        shape = args[0].shape[args[0].ndim - len(args[1]) :]
        return (args[0], list(shape), *args[2:])
    if op.name == "native_group_norm":
        return (*args[:4], len(statistics[0][1]), *args[5:])
    return args


def check_uncut(model: nn.Module, network: SlimmableNetwork, example_inputs: Inputs) -> None:
    """Make sure that the variant with all units is the model, with the model's own weights.

    Raises:
        UnsupportedLayerError: It gives other outputs.
    """
    with quietly(), kept_state(model):
        expected = call(model, example_inputs)
        outputs = call(own_buffers(network.uncompressed()), example_inputs)
    if not _all_agree(outputs, expected):
        raise UnsupportedLayerError(
            "target: the variant with all units gives other outputs than the model; list the "
            "layers in space.skip that its forward pass treats by their place"
        )
