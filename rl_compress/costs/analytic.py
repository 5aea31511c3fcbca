"""Exact costs of every variant from one look at the target: MACs, parameters, bytes, memory.

The sizes of all tensors are products of widths, and the MACs of a layer are proportional to the
size of its weight, so costs of a policy need no variant to be built.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl_compress.costs.activation_memory import ActivationMemory, live_bytes
from rl_compress.costs.lazy import LazyCosts
from rl_compress.costs.precision import Precision
from rl_compress.layers.axes import layer_of, named_tensors
from rl_compress.layers.groups import LayerGroup
from rl_compress.policy.budget import BUDGETABLE, COSTS, LATENCY
from rl_compress.policy.search_space import Widths
from rl_compress.quantization.bits import BitPlan

FLOPS_PER_MAC = 2
"""Torch counts floating-point operations: a multiplication and an addition for each MAC."""


class AnalyticCosts:
    """Costs as functions of widths."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        example_inputs: Sequence[Tensor],
        memory: ActivationMemory | None = None,
        precision: Precision | None = None,
        plan: BitPlan | None = None,
    ) -> None:
        """Measure the uncompressed model once.

        Args:
            model: The uncompressed model on the CPU.
            groups: The groups that are pruned, those of the first dimensions.
            example_inputs: Inputs of one forward pass, batch size 1.
            memory: Tells the peak activation memory of widths; by default it is constant.
            precision: Bits of each tensor in the variants; by default their own.
            plan: Which dimensions the bits of which layers follow.
        """
        tensors = named_tensors(model)
        names = list(tensors)
        saved = set(model.state_dict())
        parameters = dict(model.named_parameters())
        max_dims = max((tensor.ndim for tensor in tensors.values()), default=0)
        # Length of axis d of tensor t: fixed[d, t] + per_unit[d, t, :] @ widths.
        lengths = np.ones((max_dims, len(names)), dtype=np.int64)
        for row, name in enumerate(names):
            lengths[: tensors[name].ndim, row] = tensors[name].shape
        fixed = lengths.copy()
        per_unit = np.zeros((*fixed.shape, len(groups)), dtype=np.int64)
        rows = {name: row for row, name in enumerate(names)}
        for index, group in enumerate(groups):
            for axis in group.axes:
                row = rows[axis.tensor]
                fixed[axis.axis, row] -= axis.positions.size
                per_unit[axis.axis, row, index] += axis.positions.shape[1]
        macs, self.fixed_macs = count_macs(model, example_inputs)
        """MACs of operations that belong to no weight, such as attention; taken as constant."""
        self._tensors = _Tensors(
            fixed.astype(np.float64),
            per_unit.reshape(fixed.size, len(groups)).T.astype(np.float64),
            np.array([name in parameters for name in names], dtype=np.int64),
            np.array([name in saved for name in names], dtype=np.int64),
            np.array(
                [macs.get(name, 0) // max(tensors[name].numel(), 1) for name in names],
                dtype=np.int64,
            ),
        )
        own = Precision(model)
        precision = precision or own
        whole = np.array([[group.num_units for group in groups]], dtype=np.int64)
        self._own_bops = int(own.bops_per_mac(own.of(whole), whole).max(initial=0))
        # Most tensors, such as those of a BatchNorm, grow with one width and are never quantized:
        # together they are a linear function of the widths.
        growing = per_unit.any(axis=2).sum(axis=0)
        linear = (growing <= 1) & (self._tensors.macs_per_element == 0) & precision.unquantized
        self._linear = self._tensors.only(linear).linear(precision.only(linear))
        self._others, self._precision = self._tensors.only(~linear), precision.only(~linear)
        self._memory = memory
        self._full_memory = int(live_bytes(model, example_inputs).max())
        # Which tensors a dimension decides on: by axes for widths, by layers for bits.
        self._touched = [per_unit[:, :, index].any(axis=0) for index in range(len(groups))]
        for dimension in range(len(groups), len(groups) + (plan.num_dimensions if plan else 0)):
            layers = plan.layers_of(dimension) if plan else set()
            self._touched.append(np.array([layer_of(name) in layers for name in names]))
        self.latency: LatencyModel | None = None
        """Predicts ``latency_ms``, where a budget needs it."""
        uncompressed = _Variants(self._tensors, own, whole)
        self.original: dict[str, float] = {
            "peak_memory_bytes": self._full_memory,
            **{cost: int(self._of_tensors(cost, uncompressed)[0]) for cost in _OF_TENSORS},
        }
        """Costs of the uncompressed, unquantized target."""

    def costs(self, widths: Widths) -> dict[str, float]:
        """Return every cost of a variant.

        Args:
            widths: Units kept and bits, shape ``(num_groups,)``.

        Returns:
            See :data:`~rl_compress.policy.budget.COSTS`: whole numbers; and ``latency_ms`` where it
            is predicted.
        """
        found = self.batch(np.asarray(widths, dtype=np.int64)[None])
        return {cost: values[0].item() for cost, values in found.items()}

    def batch(self, widths: npt.NDArray[np.int64]) -> Mapping[str, npt.NDArray[Any]]:
        """Return every cost of many variants at once.

        Args:
            widths: Units kept and bits, shape ``(variants, num_groups)``.

        Returns:
            By cost an array of shape ``(variants,)``.
        """
        variants = _Variants(self._others, self._precision, widths)
        names = COSTS if self.latency is None else BUDGETABLE
        return LazyCosts(names, lambda cost: self._cost(cost, variants))

    def macs_of_group(self, group: int, widths: Widths) -> int:
        """Return the MACs of all layers whose width, input width or bits a dimension decides."""
        return int((self._elements(widths) * self._touched[group]) @ self._tensors.macs_per_element)

    def params_of_group(self, group: int, widths: Widths) -> int:
        """Return the parameters of all tensors whose size or bits a dimension decides."""
        return int((self._elements(widths) * self._touched[group]) @ self._tensors.is_parameter)

    def _cost(self, cost: str, variants: _Variants) -> npt.NDArray[Any]:
        """Return a cost of variants, shape ``(variants,)``."""
        if cost == LATENCY:
            assert self.latency is not None, "otherwise it is no cost"
            return self.latency.predict_ms(variants.units)
        if cost == "peak_memory_bytes":
            if self._memory is None:
                return np.full(len(variants.units), self._full_memory)
            return self._memory.peak_bytes(variants.units)
        found = self._of_tensors(cost, variants)
        if cost in self._linear:
            least, slope = self._linear[cost]
            found = found + least + variants.units @ slope
        return found

    def _of_tensors(self, cost: str, variants: _Variants) -> npt.NDArray[np.int64]:
        """Return a cost of variants' tensors, with what belongs to no weight."""
        found: npt.NDArray[np.int64] = _OF_TENSORS[cost](variants)
        if cost == "macs":
            return found + self.fixed_macs
        # What belongs to no weight, such as attention, is not quantized.
        return found + self.fixed_macs * self._own_bops if cost == "bops" else found

    def _elements(self, widths: Widths) -> npt.NDArray[np.int64]:
        units = np.asarray(widths, dtype=np.int64)[None, : len(self._tensors.growth)]
        return _elements(self._tensors.lengths(units))[0]


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Tensors whose lengths follow the widths, a row each."""

    fixed: npt.NDArray[np.float64]
    """Their lengths without any unit, shape ``(max_dims, tensors)``."""
    growth: npt.NDArray[np.float64]
    """What a unit of each group adds to the lengths, shape ``(groups, max_dims * tensors)``."""
    is_parameter: npt.NDArray[np.int64]
    is_saved: npt.NDArray[np.int64]
    macs_per_element: npt.NDArray[np.int64]

    def only(self, rows: npt.NDArray[np.bool_]) -> _Tensors:
        """Return some of them."""
        fixed = self.fixed[:, rows]
        growth = self.growth.reshape(len(self.growth), *self.fixed.shape)[:, :, rows]
        return _Tensors(
            fixed,
            growth.reshape(len(growth), fixed.size),
            self.is_parameter[rows],
            self.is_saved[rows],
            self.macs_per_element[rows],
        )

    def lengths(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the shapes of all tensors, shape ``(variants, max_dims, tensors)``."""
        # In floating point, which is exact for such numbers, and has a fast matrix product.
        lengths = (units.astype(np.float64) @ self.growth).reshape(len(units), *self.fixed.shape)
        lengths += self.fixed
        return lengths

    def linear(self, precision: Precision) -> dict[str, tuple[int, npt.NDArray[np.int64]]]:
        """Return the costs of tensors that are linear in the widths, and are never quantized.

        Args:
            precision: Of these tensors.

        Returns:
            By cost what there is without any unit, and what a unit of each group adds.
        """
        none_and_one_each = np.eye(len(self.growth) + 1, len(self.growth), -1, dtype=np.int64)
        elements = _elements(self.lengths(none_and_one_each))
        bytes_of = self.is_saved * precision.own_bits // 8
        found = {"params": elements @ self.is_parameter, "size_bytes": elements @ bytes_of}
        return {cost: (int(of[0]), of[1:] - of[0]) for cost, of in found.items()}


class _Variants:
    """Tensors of a batch of variants, and what they add to each cost."""

    def __init__(
        self, tensors: _Tensors, precision: Precision, widths: npt.NDArray[np.int64]
    ) -> None:
        """Keep the tensors, their bits, and the variants' levels, ``(variants, num_groups)``."""
        self._tensors, self._precision, self._widths = tensors, precision, widths
        self.units = widths[:, : len(tensors.growth)]
        """Units kept, shape ``(variants, pruned groups)``."""
        self._lengths = tensors.lengths(self.units)
        self._elements = _elements(self._lengths)

    def macs(self) -> npt.NDArray[np.int64]:
        """Return the MACs, shape ``(variants,)``."""
        return self._elements @ self._tensors.macs_per_element

    def params(self) -> npt.NDArray[np.int64]:
        """Return the number of parameters, shape ``(variants,)``."""
        return self._elements @ self._tensors.is_parameter

    def size_bytes(self) -> npt.NDArray[np.int64]:
        """Return the bytes of all tensors in the file, shape ``(variants,)``."""
        bits = self._precision.of(self._widths)
        stored = self._precision.stored_bytes(bits, self._lengths, self._elements)
        return stored @ self._tensors.is_saved

    def bops(self) -> npt.NDArray[np.int64]:
        """Return the bit operations, shape ``(variants,)``."""
        bits = self._precision.of(self._widths)
        by_tensor = self._elements * self._precision.bops_per_mac(bits, self._widths)
        return by_tensor @ self._tensors.macs_per_element


_OF_TENSORS: Mapping[str, Callable[[_Variants], npt.NDArray[np.int64]]] = {
    "macs": _Variants.macs,
    "params": _Variants.params,
    "size_bytes": _Variants.size_bytes,
    "bops": _Variants.bops,
}


def _elements(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the products over the middle axis, which is too short for numpy's own to be quick."""
    return functools.reduce(np.multiply, lengths.swapaxes(0, 1)).astype(np.int64)


class LatencyModel(Protocol):
    """Anything that predicts latencies."""

    def predict_ms(self, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return milliseconds, shape ``(variants,)``, of widths ``(variants, pruned groups)``."""


def count_macs(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[dict[str, int], int]:
    """Count MACs of one forward pass with torch's own counter.

    Returns:
        MACs of each layer under the name of its weight, and those of all other operations.
    """
    counter = FlopCounterMode(display=False)
    # The counter's module tracker warns of frozen modules, which do not matter without gradients.
    logger = logging.getLogger("torch.utils.module_tracker")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), counter:
            model(*example_inputs)
    finally:
        logger.setLevel(level)
    by_module = counter.get_flop_counts()
    prefix = f"{type(model).__name__}."
    macs: dict[str, int] = {}
    for name, module in model.named_modules():
        if "weight" in dict(module.named_parameters(recurse=False)):
            flops = sum(by_module.get(prefix + name if name else prefix[:-1], {}).values())
            if flops:
                macs[f"{name}.weight" if name else "weight"] = flops // FLOPS_PER_MAC
    total = counter.get_total_flops() // FLOPS_PER_MAC
    return macs, total - sum(macs.values())
