"""Lengths of axes as functions of widths, and products of such lengths."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl_compress.model.graph import Graph
from rl_compress.model.groups import LayerGroup
from rl_compress.model.positions import Ids


class AxisLengths:
    """Tells how long the axes of a graph are in narrower variants."""

    def __init__(self, graph: Graph, groups: Sequence[LayerGroup]) -> None:
        """Note which position belongs to which group.

        Args:
            graph: Of the uncompressed model.
            groups: Those that are decided, one for each of the first dimensions.
        """
        positions = graph.positions
        by_set = np.full(len(positions), -1, dtype=np.int64)
        for index, group in enumerate(groups):
            for axis in group.axes:
                ids = graph.tensors[axis.tensor][axis.axis]
                assert ids is not None, "groups are found by their positions"
                by_set[positions.sets(ids[axis.positions.reshape(-1)])] = index
        self._group_of = by_set[positions.sets(np.arange(len(positions)))]
        self.groups = groups
        self._known: dict[int, tuple[int, dict[int, int]]] = {}

    def of(self, ids: Ids) -> tuple[int, Mapping[int, int]]:
        """Return the length of an axis without any unit, and what a unit of each group adds."""
        if id(ids) not in self._known:
            groups, counts = np.unique(self._group_of[ids], return_counts=True)
            growth = dict(zip(groups.tolist(), counts.tolist(), strict=True))
            fixed = growth.pop(-1, 0)
            self._known[id(ids)] = (
                fixed,
                {index: count // self.groups[index].num_units for index, count in growth.items()},
            )
        return self._known[id(ids)]


@dataclass(frozen=True, slots=True)
class Products:
    """Products of lengths that follow the widths, a row each."""

    fixed: npt.NDArray[np.float64]
    """The lengths without any unit, shape ``(factors, rows)``."""
    growth: npt.NDArray[np.float64]
    """What a unit of each group adds to the lengths, shape ``(groups, factors * rows)``."""

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[tuple[int, Mapping[int, int]]]], num_groups: int
    ) -> Products:
        """Gather rows of lengths, as :meth:`AxisLengths.of` tells them."""
        factors = max(map(len, rows), default=0) or 1
        fixed = np.ones((factors, len(rows)))
        growth = np.zeros((num_groups, factors, len(rows)))
        for row, lengths in enumerate(rows):
            for factor, (constant, units) in enumerate(lengths):
                fixed[factor, row] = constant
                for group, count in units.items():
                    growth[group, factor, row] = count
        return cls(fixed, growth.reshape(num_groups, fixed.size))

    def only(self, rows: npt.NDArray[np.bool_]) -> Products:
        """Return some of them."""
        fixed = self.fixed[:, rows]
        growth = self.growth.reshape(len(self.growth), *self.fixed.shape)[:, :, rows]
        return Products(fixed, growth.reshape(len(growth), fixed.size))

    def lengths(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the lengths, shape ``(variants, factors, rows)``."""
        # In floating point, which is exact for such numbers, and has a fast matrix product.
        lengths = (units.astype(np.float64) @ self.growth).reshape(len(units), *self.fixed.shape)
        lengths += self.fixed
        return lengths

    def of_widths(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the products, shape ``(variants, rows)``."""
        return product(self.lengths(units))

    def touched(self, groups: slice = slice(None)) -> npt.NDArray[np.bool_]:
        """Return which group changes which row, shape ``(groups, rows)``."""
        growth = self.growth[groups]
        changes = growth.reshape(len(growth), *self.fixed.shape) != 0
        return np.logical_or.reduce(changes, axis=1)


def product(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the products over the middle axis, which is too short for numpy's own to be quick."""
    return functools.reduce(np.multiply, lengths.swapaxes(0, 1)).astype(np.int64)
