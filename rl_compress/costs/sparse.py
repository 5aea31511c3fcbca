"""Exact costs of variants with masked weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rl_compress.costs.analytic import AnalyticCosts, count_macs
from rl_compress.costs.precision import Precision, unquantized
from rl_compress.layers.axes import named_tensors
from rl_compress.policy.search_space import Widths
from rl_compress.pruning.sparse_packing import sparse_bytes


@dataclass(frozen=True, slots=True)
class _Masked:
    """One weight that can be masked."""

    elements: int
    rows: int
    per_unit: npt.NDArray[np.float64]
    """Elements that a unit of each group adds, shape ``(num_groups,)``."""
    macs_per_element: int
    precision: Precision


class SparseCosts:
    """Costs as functions of widths; zeros cost neither MACs nor, packed, bytes."""

    def __init__(
        self,
        model: nn.Module,
        elements_per_unit: Mapping[str, npt.NDArray[np.float64]],
        example_inputs: Sequence[Tensor],
        precision: Mapping[str, Precision] | None = None,
    ) -> None:
        """Measure the dense model once.

        Args:
            model: The uncompressed model on the CPU.
            elements_per_unit: For each weight that can be masked how many of its elements a unit of
                each group adds, shape ``(num_groups,)``.
            example_inputs: Inputs of one forward pass, batch size 1.
            precision: Bits of each tensor in the variants; by default their own.
        """
        dense = AnalyticCosts(model, (), example_inputs, precision=precision)
        self._dense = dense.costs(np.zeros(0, dtype=np.int64))
        self.original = dense.original
        self.fixed_macs = dense.fixed_macs
        macs, _ = count_macs(model, example_inputs)
        tensors = named_tensors(model)
        self._weights = [
            _Masked(
                elements=tensors[name].numel(),
                rows=len(tensors[name]),
                per_unit=per_unit,
                macs_per_element=macs.get(name, 0) // max(tensors[name].numel(), 1),
                precision=(unquantized(tensors[name]) if precision is None else precision[name]),
            )
            for name, per_unit in elements_per_unit.items()
        ]

    def costs(self, widths: Widths) -> dict[str, int]:
        """Return every cost of a variant.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
        """
        costs = dict(self._dense)
        for weight in self._weights:
            kept = self._kept(weight, widths)
            gone = weight.elements - kept
            costs["macs"] -= gone * weight.macs_per_element
            costs["bops"] -= gone * weight.macs_per_element * weight.precision.bops_per_mac
            costs["params"] -= gone
            dense = -(-weight.elements * weight.precision.stored_bits // 8)
            packed = sparse_bytes(
                weight.rows,
                weight.elements // weight.rows,
                kept,
                weight.precision.stored_bits,
            )
            costs["size_bytes"] += min(packed, dense) - dense
        return costs

    def macs_of_group(self, group: int, widths: Widths) -> int:
        """Return the MACs of the weights whose number a group decides."""
        return sum(
            self._kept(weight, widths) * weight.macs_per_element
            for weight in self._weights
            if weight.per_unit[group]
        )

    def params_of_group(self, group: int, widths: Widths) -> int:
        """Return the weights whose number a group decides."""
        return sum(self._kept(weight, widths) for weight in self._weights if weight.per_unit[group])

    @staticmethod
    def _kept(weight: _Masked, widths: Widths) -> int:
        return round(float(weight.per_unit @ np.asarray(widths)))
