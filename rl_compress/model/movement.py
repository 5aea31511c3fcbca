"""Rules of operations that move elements, or take some of them: views, slices, concatenation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rl_compress.model.operation import Labels, Operation, Rule, stays, unknown
from rl_compress.model.positions import FIXED, Ids, fixed, varies

_STAY = "its channels are moved in a way that depends on their number"


def _same(op: Operation) -> list[Labels]:
    return [list(op.inputs[0]) for _ in op.results]


def _permuted(op: Operation) -> list[Labels]:
    source, labels = op.operands[0], op.inputs[0]
    if op.name == "permute":
        order = [axis % max(source.ndim, 1) for axis in op.argument(1, "dims")]
    else:
        order = list(range(source.ndim))
        if op.name == "t":
            one, other = 0, source.ndim - 1
        else:
            one, other = op.argument(1, "dim0"), op.argument(2, "dim1")
        if source.ndim:
            order[one], order[other] = order[other], order[one]
    return [[labels[axis] for axis in order]]


def _reshaped(op: Operation) -> list[Labels]:
    """Match axes before and after in the smallest blocks of equally many elements."""
    before, after = op.operands[0].shape, op.results[0].shape
    labels, found = op.inputs[0], unknown(op.results[0])
    for old, new in _blocks(before, after):
        moving = [axis for axis in old if varies(labels[axis])]
        longer = [axis for axis in new if after[axis] > 1]
        if not moving:
            known = any(labels[axis] is not None for axis in old)
            for axis in longer:
                found[axis] = fixed(after[axis]) if known else None
        elif len(moving) > 1:
            for axis in moving:
                op.keep(labels[axis], "two kinds of channels become one axis")
        else:
            ids = labels[moving[0]]
            assert ids is not None, "only known positions vary"
            inner = math.prod(before[axis] for axis in old if axis > moving[0])
            outer = math.prod(before[axis] for axis in old if axis < moving[0])
            elements = np.tile(np.repeat(ids, inner), outer)
            shape = [after[axis] for axis in new]
            for axis, along in zip(new, _along_axes(op, elements.reshape(shape)), strict=True):
                found[axis] = along
    return [found]


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Yield ranges of axes, before and after, with the same number of elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        start, begin = i, j
        old = new = 1
        if i < len(before):
            old, i = before[i], i + 1
        if j < len(after):
            new, j = after[j], j + 1
        while old != new:
            if old < new and i < len(before):
                old, i = old * before[i], i + 1
            elif j < len(after):
                new, j = new * after[j], j + 1
            else:
                break
        while i < len(before) and before[i] == 1:
            i += 1
        while j < len(after) and after[j] == 1:
            j += 1
        yield range(start, i), range(begin, j)


def _along_axes(op: Operation, elements: Ids) -> Labels:
    """Find the axis along which the positions of an array's elements lie.

    Where they lie along several, as heads and their channels do, one of them is chosen, and what
    shares a place on it goes together.

    Args:
        op: The operation; learns of the choice.
        elements: Position of each element.

    Returns:
        For each axis its positions.
    """
    varying = [
        axis
        for axis in range(elements.ndim)
        if elements.shape[axis] > 1 and (elements != elements.take([0], axis=axis)).any()
    ]
    labels: Labels = [fixed(size) if size > 1 else None for size in elements.shape]
    if not varying:
        # One position fills all that is left of the axis.
        op.positions.keep(elements.reshape(-1)[:1], f"one of its channels is taken ({op.place})")
        return labels
    chosen = varying[-1 - op.choice % len(varying)]
    if len(varying) > 1:
        op.ways = max(op.ways, len(varying))
        op.split = elements.reshape(-1)
    rows = np.moveaxis(elements, chosen, 0).reshape(elements.shape[chosen], -1)
    for column in rows.T[1:] if len(varying) > 1 else ():
        if not np.array_equal(column, rows[:, 0]):
            op.unite(rows[:, 0], column)
    labels[chosen] = np.ascontiguousarray(rows[:, 0])
    return labels


def _carried(op: Operation) -> list[Labels]:
    """Carry the number of every element through the operation itself."""
    source, labels = op.operands[0], op.inputs[0]
    results = [stays(result) for result in op.results]
    for axis, ids in enumerate(labels):
        if ids is None or not varies(ids):
            continue
        shape = [1] * source.ndim
        shape[axis] = -1
        numbers = torch.empty_like(source, dtype=torch.float64)
        numbers.copy_(torch.from_numpy(ids.astype(np.float64)).reshape(shape).expand_as(source))
        moved = _run(op, source, numbers)
        for number, labels_of in enumerate(results):
            elements = moved[number].numpy().astype(np.int64)
            for along, found in enumerate(_along_axes(op, elements)):
                if not varies(found):
                    continue
                if varies(labels_of[along]):
                    op.keep(found, _STAY)
                    op.keep(labels_of[along], _STAY)
                else:
                    labels_of[along] = found
    return results


def _run(op: Operation, source: Tensor, numbers: Tensor) -> list[Tensor]:
    def swap(value: Any) -> Any:
        return numbers if value is source else value

    moved = op.func(*tree_map(swap, op.args), **tree_map(swap, op.kwargs))
    return [moved] if isinstance(moved, Tensor) else list(moved)


def _indexed(op: Operation) -> list[Labels]:
    """Look up rows; how many a mask picks depends on values, not on channels."""
    given = op.args[1]
    if all(index is None or index.dtype != torch.bool for index in given):
        return _carried(op)
    labels = list(op.inputs[0])
    covered = given[0].ndim if len(given) == 1 else len(labels)
    for ids in labels[:covered]:
        op.keep(ids, "they are picked by their values")
    return [unknown(op.results[0])[: op.results[0].ndim - len(labels[covered:])] + labels[covered:]]


def _padded(op: Operation) -> list[Labels]:
    labels = list(op.inputs[0])
    pads = op.argument(1, "pad")
    for number in range(len(pads) // 2):
        axis = len(labels) - 1 - number
        ids = labels[axis]
        if ids is not None:
            before, after = pads[2 * number : 2 * number + 2]
            inner = ids[max(-before, 0) : len(ids) - max(-after, 0)]
            # What is padded with always stays.
            labels[axis] = np.pad(inner, (max(before, 0), max(after, 0)), constant_values=FIXED)
    return [labels]


def _sliced(op: Operation) -> list[Labels]:
    axis = op.argument(1, "dim", 0) % op.operands[0].ndim
    size = op.operands[0].shape[axis]
    start, end = op.argument(2, "start") or 0, op.argument(3, "end")
    step = op.argument(4, "step", 1)
    start, end, _ = slice(start, size if end is None else end).indices(size)
    labels = list(op.inputs[0])
    ids, length = labels[axis], end - start
    if ids is not None:
        if step == 1 and 0 < length < size and start % length == 0 and size % length == 0:
            op.tie(ids, size // length)
        labels[axis] = ids[start:end:step]
    return [labels]


def _selected(op: Operation) -> list[Labels]:
    axis = op.argument(1, "dim", 0) % op.operands[0].ndim
    labels = list(op.inputs[0])
    op.keep(labels.pop(axis), "one of its channels is taken")
    return [labels]


def _unbound(op: Operation) -> list[Labels]:
    axis = op.argument(1, "dim", 0) % op.operands[0].ndim
    labels = list(op.inputs[0])
    op.keep(labels.pop(axis), "its channels are taken one by one")
    return [list(labels) for _ in op.results]


def _parted(op: Operation) -> list[Labels]:
    """Split: equal parts lose the same; parts of different lengths cannot be told apart."""
    axis = op.argument(2, "dim", 0) % op.operands[0].ndim
    ids = op.inputs[0][axis]
    sizes = [result.shape[axis] for result in op.results]
    if len(set(sizes)) == 1:
        op.tie(ids, len(sizes))
    found, start = [], 0
    for size in sizes:
        labels = list(op.inputs[0])
        labels[axis] = None if ids is None else ids[start : start + size]
        found.append(labels)
        start += size
    return found


def _concatenated(op: Operation) -> list[Labels]:
    result = op.results[0]
    axis = op.argument(1, "dim", 0) % result.ndim
    joined = [tensor for tensor in op.operands if tensor.ndim == result.ndim]
    labels = unknown(result)
    for along in range(result.ndim):
        own = [op.labels(tensor)[along] for tensor in joined]
        if along == axis:
            labels[along] = np.concatenate(
                [
                    np.full(tensor.shape[axis], FIXED) if ids is None else ids
                    for tensor, ids in zip(joined, own, strict=True)
                ]
            )
        else:
            for ids in own:
                labels[along] = op.unite(labels[along], ids)
    return [labels]


def _stacked(op: Operation) -> list[Labels]:
    result = op.results[0]
    axis = op.argument(1, "dim", 0) % result.ndim
    labels = unknown(op.operands[0])
    for inputs in op.inputs:
        labels = [op.unite(one, other) for one, other in zip(labels, inputs, strict=True)]
    labels.insert(axis, fixed(result.shape[axis]))
    return [labels]


def _unsqueezed(op: Operation) -> list[Labels]:
    labels = list(op.inputs[0])
    labels.insert(op.argument(1, "dim") % op.results[0].ndim, None)
    return [labels]


def _squeezed(op: Operation) -> list[Labels]:
    # Axes of length one have no positions, so it does not matter which of them are dropped.
    long = [ids for ids, size in zip(op.inputs[0], op.operands[0].shape, strict=True) if size > 1]
    return [[long.pop(0) if size > 1 else None for size in op.results[0].shape]]


def _expanded(op: Operation) -> list[Labels]:
    added = op.results[0].ndim - op.operands[0].ndim
    return [[None] * added + list(op.inputs[0])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("alias", "detach", "lift_fresh", "lift", "contiguous", "_conj"), _same),
    **dict.fromkeys(("permute", "transpose", "t", "swapaxes"), _permuted),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _reshaped),
    **dict.fromkeys(
        (
            "roll",
            "flip",
            "repeat",
            "pixel_shuffle",
            "pixel_unshuffle",
            "channel_shuffle",
            "native_channel_shuffle",
            "im2col",
            "unfold",
            "index_select",
            "as_strided",
            "diagonal",
            "repeat_interleave",
        ),
        _carried,
    ),
    "index": _indexed,
    "constant_pad_nd": _padded,
    "slice": _sliced,
    "select": _selected,
    "unbind": _unbound,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_chunk"), _parted),
    "cat": _concatenated,
    "stack": _stacked,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
}
