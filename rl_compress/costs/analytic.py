"""Exact costs of every variant from one look at the target: MACs, parameters, bytes, memory.

The sizes of all tensors, and the MACs of all operations, are products of lengths of axes, which
follow the widths, so costs of a policy need no variant to be built.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rl_compress.costs.activation_memory import ActivationMemory
from rl_compress.costs.axis_lengths import AxisLengths, Products, product
from rl_compress.costs.lazy import LazyCosts
from rl_compress.costs.precision import Precision
from rl_compress.model.axes import layer_of, named_tensors
from rl_compress.model.graph import Graph
from rl_compress.model.groups import LayerGroup
from rl_compress.quantizers.bits import BitPlan
from rl_compress.space.budget import BUDGETABLE, COSTS, LATENCY
from rl_compress.space.search_space import Levels, SearchSpace


class AnalyticCosts:
    """Costs as functions of levels."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        graph: Graph,
        space: SearchSpace,
        precision: Precision | None = None,
        plan: BitPlan | None = None,
    ) -> None:
        """Look at the uncompressed model once.

        Args:
            model: The uncompressed model on the CPU.
            groups: The groups that are pruned, those of the first dimensions.
            graph: What a forward pass of one sample did.
            space: What levels stand for.
            precision: Bits of each tensor in the variants; by default their own.
            plan: Which dimensions the bits of which layers follow.
        """
        self._groups, self._space = groups, space
        tensors = named_tensors(model)
        names = list(tensors)
        lengths = AxisLengths(graph, groups)
        own = Precision(model)
        precision = precision or own
        whole = np.array([[group.num_units for group in groups]], dtype=np.int64)
        narrowed = {axis.tensor for group in groups for axis in group.axes}
        saved = set(model.state_dict()) | narrowed
        parameters = dict(model.named_parameters())
        products = Products.of(
            [_lengths_of(name, tensor, graph, lengths) for name, tensor in tensors.items()],
            len(groups),
        )
        self._tensors = _Tensors(
            products,
            np.array([name in parameters for name in names], dtype=np.int64),
            np.array([name in saved for name in names], dtype=np.int64),
        )
        self._operations = _Operations.of(graph, lengths, names)
        self._own_bops = int(own.bops_per_mac(own.of(whole), whole).max(initial=0))
        touched = self._operations.products.touched().any(axis=0)
        stays = self._operations.constants * ~touched
        self.fixed_macs = int(stays @ (self._operations.weights < 0))
        """MACs of operations that belong to no weight, such as attention, and stay the same."""
        self.fixed_layers: dict[str, int] = {}
        """MACs of layers that no group narrows, by their name."""
        for row in np.flatnonzero((stays > 0) & (self._operations.weights >= 0)):
            layer = layer_of(names[self._operations.weights[row]])
            self.fixed_layers[layer] = self.fixed_layers.get(layer, 0) + int(stays[row])
        # Most tensors, such as those of a BatchNorm, grow with one width and are never quantized:
        # together they are a linear function of the widths.
        growth = products.growth.reshape(len(groups), *products.fixed.shape)
        growing = (growth != 0).sum(axis=(0, 1))
        linear = (growing <= 1) & precision.unquantized
        self._linear = self._tensors.only(linear).linear(precision.only(linear))
        self._others, self._precision = self._tensors.only(~linear), precision.only(~linear)
        self._of_operations = precision.only(np.maximum(self._operations.weights, 0))
        self._memory = ActivationMemory(graph, lengths)
        # What a dimension decides on: by axes for widths, by layers for bits.
        self._touched_tensors = list(products.touched())
        self._touched_operations = list(self._operations.products.touched())
        owners = np.array(list(map(layer_of, names)))
        for dimension in range(len(groups), len(groups) + (plan.num_dimensions if plan else 0)):
            layers = list(plan.layers_of(dimension)) if plan else []
            decided = np.isin(owners, layers)
            self._touched_tensors.append(decided)
            weights = self._operations.weights
            self._touched_operations.append((weights >= 0) & decided[weights])
        self.latency: LatencyModel | None = None
        """Predicts ``latency_ms``, where a budget needs it."""
        uncompressed = _Variants(self._tensors, own, whole)
        macs = self._operations.macs(whole)
        bops = own.only(np.maximum(self._operations.weights, 0))
        self.original: dict[str, float] = {
            "macs": int(macs.sum()),
            "params": int(uncompressed.params()[0]),
            "size_bytes": int(uncompressed.size_bytes()[0]),
            "bops": int(self._bops(bops, whole)[0]),
            "peak_memory_bytes": int(self._memory.peak_bytes(whole)[0]),
        }
        """Costs of the uncompressed, unquantized target, in the order in which they are shown."""

    def costs(self, levels: Levels) -> dict[str, float]:
        """Return every cost of a variant, whose levels have shape ``(D,)``.

        Returns:
            See :data:`~rl_compress.space.budget.COSTS`: whole numbers; and ``latency_ms`` where it
            is predicted.
        """
        found = self.batch(levels[None])
        return {cost: values[0].item() for cost, values in found.items()}

    def batch(self, levels: Levels) -> Mapping[str, npt.NDArray[Any]]:
        """Return every cost of many variants at once.

        Args:
            levels: Shape ``(variants, D)``.

        Returns:
            By cost an array of shape ``(variants,)``.
        """
        variants = _Variants(self._others, self._precision, self._space.amounts(levels))
        names = COSTS if self.latency is None else BUDGETABLE
        return LazyCosts(names, lambda cost: self._cost(cost, variants))

    def macs_of(self, dimension: int, levels: Levels) -> int:
        """Return the MACs of all operations whose size or bits a dimension decides."""
        macs = self._operations.macs(self._units(levels))[0]
        return int(macs @ self._touched_operations[dimension])

    def params_of(self, dimension: int, levels: Levels) -> int:
        """Return the parameters of all tensors whose size or bits a dimension decides."""
        elements = self._tensors.products.of_widths(self._units(levels))[0]
        return int((elements * self._touched_tensors[dimension]) @ self._tensors.is_parameter)

    def macs_by_weight(self) -> dict[int, int]:
        """Return the MACs of the uncompressed model by row of the weight among its tensors."""
        found: dict[int, int] = {}
        whole = np.array([group.num_units for group in self._groups], dtype=np.int64)
        for row, macs in zip(
            self._operations.weights.tolist(), self._operations.macs(whole[None])[0], strict=True
        ):
            if row >= 0:
                found[row] = found.get(row, 0) + int(macs)
        return found

    def _cost(self, cost: str, variants: _Variants) -> npt.NDArray[Any]:
        """Return a cost of variants, shape ``(variants,)``."""
        if cost == LATENCY:
            assert self.latency is not None, "otherwise it is no cost"
            return self.latency.predict_ms(variants.units)
        if cost == "peak_memory_bytes":
            return self._memory.peak_bytes(variants.units)
        if cost == "macs":
            return self._operations.macs(variants.units).sum(axis=1)
        if cost == "bops":
            return self._bops(self._of_operations, variants.amounts)
        found = variants.params() if cost == "params" else variants.size_bytes()
        least, slope = self._linear[cost]
        total: npt.NDArray[np.int64] = found + least + variants.units @ slope
        return total

    def _bops(self, precision: Precision, amounts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return MACs times the bits of both factors; what has no weight is not quantized."""
        per_mac = precision.bops_per_mac(precision.of(amounts), amounts)
        per_mac = np.where(self._operations.weights >= 0, per_mac, self._own_bops)
        macs = self._operations.macs(amounts[:, : len(self._groups)])
        return np.einsum("vr,vr->v", macs, per_mac)

    def _units(self, levels: Levels) -> npt.NDArray[np.int64]:
        return self._space.amounts(levels)[None, : len(self._groups)]


def _lengths_of(
    name: str, tensor: Tensor, graph: Graph, lengths: AxisLengths
) -> list[tuple[int, Mapping[int, int]]]:
    """Return how long the axes of a parameter or buffer are."""
    labels = graph.tensors.get(name) or [None] * tensor.ndim
    return [
        (size, {}) if ids is None else lengths.of(ids)
        for size, ids in zip(tensor.shape, labels, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Operations:
    """Multiplications whose number follows the widths, a row for each weight and shape."""

    products: Products
    constants: npt.NDArray[np.int64]
    """What the products are multiplied by, shape ``(rows,)``."""
    weights: npt.NDArray[np.int64]
    """Index of the tensor that is multiplied by, -1: none, shape ``(rows,)``."""

    @classmethod
    def of(cls, graph: Graph, lengths: AxisLengths, names: Sequence[str]) -> _Operations:
        """Gather the multiplications of a graph."""
        index = {name: row for row, name in enumerate(names)}
        rows: dict[tuple[Any, ...], int] = {}
        for op in graph.operations:
            for counted in op.products:
                constant, moving = counted.constant, []
                for fixed, units in map(lengths.of, counted.axes):
                    if units:
                        moving.append((fixed, tuple(sorted(units.items()))))
                    else:
                        constant *= fixed
                key = (index.get(counted.weight or "", -1), tuple(sorted(moving)))
                rows[key] = rows.get(key, 0) + constant
        factors = [[(fixed, dict(units)) for fixed, units in moving] for _, moving in rows]
        return cls(
            Products.of(factors, len(lengths.groups)),
            np.array(list(rows.values()), dtype=np.int64),
            np.array([weight for weight, _ in rows], dtype=np.int64),
        )

    def macs(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the multiplications, shape ``(variants, rows)``."""
        return self.products.of_widths(units) * self.constants


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Parameters and buffers whose sizes follow the widths, a row each."""

    products: Products
    is_parameter: npt.NDArray[np.int64]
    is_saved: npt.NDArray[np.int64]

    def only(self, rows: npt.NDArray[np.bool_]) -> _Tensors:
        """Return some of them."""
        return _Tensors(self.products.only(rows), self.is_parameter[rows], self.is_saved[rows])

    def linear(self, precision: Precision) -> dict[str, tuple[int, npt.NDArray[np.int64]]]:
        """Return the costs of tensors that are linear in the widths, and are never quantized.

        Args:
            precision: Of these tensors.

        Returns:
            By cost what there is without any unit, and what a unit of each group adds.
        """
        groups = len(self.products.growth)
        none_and_one_each = np.eye(groups + 1, groups, -1, dtype=np.int64)
        elements = self.products.of_widths(none_and_one_each)
        bytes_of = self.is_saved * precision.own_bits // 8
        found = {"params": elements @ self.is_parameter, "size_bytes": elements @ bytes_of}
        return {cost: (int(of[0]), of[1:] - of[0]) for cost, of in found.items()}


class _Variants:
    """Tensors of a batch of variants, and what they add to each cost."""

    def __init__(
        self, tensors: _Tensors, precision: Precision, amounts: npt.NDArray[np.int64]
    ) -> None:
        """Keep the tensors, their bits, and the variants' amounts, ``(variants, D)``."""
        self._tensors, self._precision, self.amounts = tensors, precision, amounts
        self.units = amounts[:, : len(tensors.products.growth)]
        """Units kept, shape ``(variants, pruned groups)``."""

    @functools.cached_property
    def _lengths(self) -> npt.NDArray[np.float64]:
        return self._tensors.products.lengths(self.units)

    @functools.cached_property
    def _elements(self) -> npt.NDArray[np.int64]:
        return product(self._lengths)

    def params(self) -> npt.NDArray[np.int64]:
        """Return the number of parameters, shape ``(variants,)``."""
        return self._elements @ self._tensors.is_parameter

    def size_bytes(self) -> npt.NDArray[np.int64]:
        """Return the bytes of all tensors in the file, shape ``(variants,)``."""
        bits = self._precision.of(self.amounts)
        stored = self._precision.stored_bytes(bits, self._lengths, self._elements)
        return stored @ self._tensors.is_saved


class LatencyModel(Protocol):
    """Anything that predicts latencies."""

    def predict_ms(self, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return milliseconds, shape ``(variants,)``, of widths ``(variants, pruned groups)``."""
