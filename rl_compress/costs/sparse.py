"""Exact costs of variants with masked weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from rl_compress.costs.analytic import AnalyticCosts, LatencyModel
from rl_compress.costs.precision import Precision
from rl_compress.importance.sparse_packing import sparse_bytes
from rl_compress.model.axes import layer_of, named_tensors
from rl_compress.model.graph import Graph
from rl_compress.quantizers.bits import BitPlan
from rl_compress.space.search_space import Amounts, Levels, SearchSpace


@dataclass(frozen=True, slots=True)
class _Masked:
    """One weight that can be masked."""

    layer: str
    row: int
    """Its place among the model's tensors."""
    elements: int
    rows: int
    per_unit: npt.NDArray[np.float64]
    """Elements that a unit of each group adds, shape ``(pruned groups,)``."""
    macs_per_element: int


class SparseCosts:
    """Costs as functions of levels; zeros cost neither MACs nor, packed, bytes."""

    def __init__(
        self,
        model: nn.Module,
        elements_per_unit: Mapping[str, npt.NDArray[np.float64]],
        graph: Graph,
        space: SearchSpace,
        precision: Precision | None = None,
        plan: BitPlan | None = None,
    ) -> None:
        """Measure the dense model once.

        Args:
            model: The uncompressed model on the CPU.
            elements_per_unit: For each weight that can be masked how many of its elements a unit of
                each group adds, shape ``(pruned groups,)``.
            graph: What a forward pass of one sample did.
            space: What levels stand for.
            precision: Bits of each tensor in the variants; by default their own.
            plan: Which dimensions the bits of which layers follow.
        """
        self._space, self._plan = space, plan or BitPlan()
        self._precision = precision or Precision(model)
        self._dense = AnalyticCosts(model, (), graph, space, self._precision)
        self.original = self._dense.original
        self.fixed_macs = self._dense.fixed_macs
        self.latency: LatencyModel | None = None
        """Zeros take as long as other values, so the latency is never predicted."""
        macs = self._dense.macs_by_weight()
        tensors = named_tensors(model)
        rows = {name: row for row, name in enumerate(tensors)}
        self._weights = [
            _Masked(
                layer=layer_of(name),
                row=rows[name],
                elements=tensors[name].numel(),
                rows=len(tensors[name]),
                per_unit=per_unit,
                macs_per_element=macs.get(rows[name], 0) // max(tensors[name].numel(), 1),
            )
            for name, per_unit in elements_per_unit.items()
        ]

    def costs(self, levels: Levels) -> dict[str, float]:
        """Return every cost of a variant, whose levels have shape ``(D,)``."""
        costs, amounts = self._dense.costs(levels), self._space.amounts(levels)
        variants = amounts[None]
        table = self._precision.of(variants)
        stored, bops = table.stored[0], self._precision.bops_per_mac(table, variants)[0]
        for weight in self._weights:
            kept, bits = _kept(weight, amounts), int(stored[weight.row])
            gone = weight.elements - kept
            costs["macs"] -= gone * weight.macs_per_element
            costs["bops"] -= gone * weight.macs_per_element * int(bops[weight.row])
            costs["params"] -= gone
            dense = -(-weight.elements * bits // 8)
            packed = sparse_bytes(weight.rows, weight.elements // weight.rows, kept, bits)
            costs["size_bytes"] += min(packed, dense) - dense
        return costs

    def batch(self, levels: Levels) -> dict[str, npt.NDArray[Any]]:
        """Return every cost of many variants, by cost an array of shape ``(variants,)``.

        Args:
            levels: Shape ``(variants, D)``.
        """
        rows = [self.costs(row) for row in levels]
        return {cost: np.array([row[cost] for row in rows]) for cost in self.original}

    def macs_of(self, dimension: int, levels: Levels) -> int:
        """Return the MACs of the weights whose number or bits a dimension decides."""
        amounts = self._space.amounts(levels)
        return sum(_kept(own, amounts) * own.macs_per_element for own in self._of(dimension))

    def params_of(self, dimension: int, levels: Levels) -> int:
        """Return the weights whose number or bits a dimension decides."""
        amounts = self._space.amounts(levels)
        return sum(_kept(own, amounts) for own in self._of(dimension))

    def _of(self, dimension: int) -> list[_Masked]:
        layers = self._plan.layers_of(dimension)
        return [
            weight
            for weight in self._weights
            if weight.layer in layers
            or (dimension < len(weight.per_unit) and weight.per_unit[dimension] > 0)
        ]


def _kept(weight: _Masked, amounts: Amounts) -> int:
    return round(float(weight.per_unit @ amounts[: len(weight.per_unit)]))
