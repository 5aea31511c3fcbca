"""One operation of a forward pass: its tensors, and the positions on their axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from rl_compress.model.positions import Ids, Positions, fixed, varies

Labels = list[Ids | None]
"""For each axis of a tensor its positions; None: nothing is known of it, as of constants."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """An axis of an operand that the operation adds up, or takes statistics over."""

    operand: int
    """Index among the operation's tensors."""
    axis: int
    ids: Ids
    whole: bool
    """A sum, to which what is zero adds nothing; else statistics, of which removed positions must
    be left out."""


@dataclass(frozen=True, slots=True)
class Products:
    """Multiplications of an operation: a constant times the lengths of axes."""

    weight: str | None
    """Name of the parameter that is multiplied by, if it is one."""
    constant: int
    axes: tuple[Ids, ...]
    """Positions of the axes that may become narrower."""

    @property
    def macs(self) -> int:
        """Return how many there are in the uncompressed model."""
        return self.constant * math.prod(map(len, self.axes))


@dataclass(slots=True, eq=False)
class Operation:
    """An operation as it ran in the uncompressed model."""

    index: int
    name: str
    """Torch's name without overload, `add` for `aten::add_` too."""
    func: Any
    layer: str
    """The innermost module that it ran in."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: list[Tensor]
    """All tensors among the arguments, in order."""
    results: list[Tensor]
    inputs: list[Labels]
    """Of the operands."""
    weights: list[str | None]
    """Names of the operands that are parameters or buffers, or the same in another shape."""
    makers: list[str]
    """Names of the operations that made the operands."""
    positions: Positions
    choice: int = 0
    """Which of several ways to take, where an axis is split: from the innermost part outwards."""
    outputs: list[Labels] = field(default_factory=list)
    reductions: list[Reduction] = field(default_factory=list)
    products: list[Products] = field(default_factory=list)
    made: list[Ids] = field(default_factory=list)
    """Positions on the axes of weights that make channels."""
    means: list[Ids] = field(default_factory=list)
    """Positions that a mean is taken over; a normalisation puts it in relation to them."""
    split: Ids | None = None
    """Positions of an axis that falls into several, of which one was chosen."""
    ways: int = 1

    @property
    def place(self) -> str:
        """Name the operation for a reason."""
        return f"{self.name} in {self.layer}" if self.layer else self.name

    def labels(self, tensor: Tensor) -> Labels:
        """Return the positions on the axes of one of the operands."""
        return self.inputs[self._index(tensor)]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument that is given by its place or by its name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def unite(self, one: Ids | None, other: Ids | None) -> Ids | None:
        """Make the positions of two axes go together; what is unknown agrees with all."""
        if one is None or other is None:
            return other if one is None else one
        return self.positions.unite(
            one, other, f"its channels meet what stays as it is ({self.place})"
        )

    def tie(self, ids: Ids | None, parts: int) -> Ids | None:
        """Let equal parts of an axis lose the same of their positions."""
        if ids is not None and parts > 1 and varies(ids):
            rows = ids.reshape(parts, -1)
            for row in rows[1:]:
                self.unite(rows[0], row)
        return ids

    def keep(self, ids: Ids | None, reason: str) -> None:
        """Let the positions of an axis stay."""
        if ids is not None:
            self.positions.keep(ids, f"{reason} ({self.place})")

    def adds_up(self, tensor: Tensor, axis: int, *, whole: bool = True) -> None:
        """Note that an axis of an operand is summed over, or that statistics are of it."""
        index = self._index(tensor)
        axis %= tensor.ndim
        ids = self.inputs[index][axis]
        if ids is not None and varies(ids):
            self.reductions.append(Reduction(index, axis, ids, whole))

    def contract(self, one: Tensor, axis: int, other: Tensor, other_axis: int) -> None:
        """Sum over an axis that two operands have in common."""
        self.unite(self.labels(one)[axis], self.labels(other)[other_axis])
        # A factor of zero is enough.
        self.adds_up(one, axis)

    def multiplies(self, weight: str | None, constant: int, *axes: tuple[int, Ids | None]) -> None:
        """Count multiplications.

        Args:
            weight: Name of the parameter that is multiplied by, if it is one.
            constant: Their number for one element of all axes together.
            axes: Length and positions of each axis.
        """
        for size, ids in axes:
            constant *= 1 if varies(ids) else size
        moving = tuple(ids for _, ids in axes if ids is not None and varies(ids))
        if constant:
            self.products.append(Products(weight, constant, moving))

    def makes(self, tensor: Tensor, axis: int) -> None:
        """Note that an axis of a weight makes the channels of the result."""
        index = self._index(tensor)
        ids = self.inputs[index][axis]
        if self.weights[index] and ids is not None:
            self.made.append(ids)

    def weight_of(self, *tensors: Tensor) -> str | None:
        """Return the name of the first of some operands that is a parameter."""
        names = (self.weights[self._index(tensor)] for tensor in tensors)
        return next((name for name in names if name), None)

    def _index(self, tensor: Tensor) -> int:
        return next(index for index, operand in enumerate(self.operands) if operand is tensor)


Rule = Callable[[Operation], list[Labels]]
"""Tells the positions on the axes of an operation's results."""


def stays(tensor: Tensor) -> Labels:
    """Return the positions of a tensor that does not become narrower."""
    return [fixed(size) if size > 1 else None for size in tensor.shape]


def unknown(tensor: Tensor) -> Labels:
    """Return the positions of a tensor of which nothing is known."""
    return [None] * tensor.ndim


def fitted(labels: Sequence[Ids | None], tensor: Tensor) -> Labels:
    """Return labels with those dropped that do not fit a tensor's shape, or have one position."""
    if len(labels) != tensor.ndim:
        return stays(tensor)
    return [
        ids if ids is not None and size > 1 and len(ids) == size else None
        for ids, size in zip(labels, tensor.shape, strict=True)
    ]


def repeated(ids: Ids | None, times: int) -> Ids | None:
    """Return positions each of which lies in several places one after the other."""
    return None if ids is None else np.repeat(ids, times)
