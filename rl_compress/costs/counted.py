"""What costs are counted from: tensors and operations of a batch of variants.

The sizes of all tensors, and the MACs of all operations, are products of lengths of axes, which
follow the units kept; so no variant needs to be built.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rl_compress.costs.activation_memory import ActivationMemory
from rl_compress.costs.axis_lengths import AxisLengths, Products, product
from rl_compress.costs.precision import BitTable, Precision
from rl_compress.importance.sparse_packing import sparse_bytes
from rl_compress.model.axes import layer_of, named_tensors
from rl_compress.model.graph import Graph
from rl_compress.model.groups import LayerGroup
from rl_compress.quantizers.bits import BitPlan
from rl_compress.space.search_space import Levels, SearchSpace

Integers = npt.NDArray[np.int64]
Row = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeptElements:
    """How many elements of a weight are not made zero."""

    tensor: str
    always: int
    """Elements that stay in every variant."""
    by_unit: Mapping[int, Row]
    """By dimension the elements of each of its units, from the most important on."""


class CountedModel:
    """A model as costs see it."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        graph: Graph,
        space: SearchSpace,
        precision: Precision,
        plan: BitPlan,
        kept: Sequence[KeptElements] = (),
    ) -> None:
        """Look at the uncompressed model once.

        Args:
            model: On the CPU.
            groups: What is pruned by the first dimensions.
            graph: What a forward pass of one sample did.
            space: What levels stand for.
            precision: Bits of each tensor in the variants.
            plan: Which dimensions the bits of which layers follow.
            kept: Weights of which elements become zero.
        """
        self.space = space
        tensors, parameters = named_tensors(model), dict(model.named_parameters())
        self.names = tuple(tensors)
        """Names of all parameters and buffers; tables of tensors have a column for each."""
        narrowed = groups if any(group.axes for group in groups) else ()
        self.num_narrowed = len(narrowed)
        lengths = AxisLengths(graph, narrowed)
        changed = {axis.tensor for group in narrowed for axis in group.axes}
        saved = set(model.state_dict()) | changed
        self.is_parameter = np.array([name in parameters for name in tensors], dtype=np.int64)
        self.is_saved = np.array([name in saved for name in tensors], dtype=np.int64)
        """Whether each tensor is stored in the file."""
        self.zeros = Zeros(kept, tensors, space)
        column = np.full(len(tensors), -1)
        column[self.zeros.rows] = np.arange(len(kept))
        shapes = []
        for name, tensor in tensors.items():
            labels = zip(tensor.shape, graph.tensors.get(name) or [None] * tensor.ndim, strict=True)
            shapes.append([(n, {}) if ids is None else lengths.of(ids) for n, ids in labels])
        products = Products.of(shapes, len(narrowed))
        self.tensors = Tensors(products, precision, np.arange(len(tensors)), column)
        self.operations, self.constants, self.weights = _operations(graph, lengths, self.names)
        """Multiplications; tables of operations have a column for each weight and shape."""
        self.of_operations = precision.only(np.maximum(self.weights, 0))
        self.memory = ActivationMemory(graph, lengths)
        self.own_bits = precision.own_bits
        # Most tensors, such as those of a BatchNorm, grow with one width and are never quantized:
        # together they are a linear function of the widths.
        growth = products.growth.reshape(len(narrowed), *products.fixed.shape)
        self.is_linear = ((growth != 0).sum(axis=(0, 1)) <= 1) & precision.unquantized
        self.is_linear[self.zeros.rows] = False
        self.others = self.tensors.only(~self.is_linear)
        self.whole = Variants(self, space.full[None], as_it_is=True)
        """The uncompressed target, unquantized."""
        # An element that becomes zero saves its share of the multiplications by its weight.
        macs, weights = self.whole.macs[0], self.weights
        column = np.append(column, -1)[weights]
        self.zeroed_operations = np.flatnonzero(column >= 0)
        self.zeroed_columns = column[self.zeroed_operations]
        self.macs_per_element = (
            macs[self.zeroed_operations] // self.zeros.whole[self.zeroed_columns]
        )
        stays = macs * ~self.operations.touched().any(axis=0)
        self.fixed_macs = int(stays @ (weights < 0))
        """MACs of operations that belong to no weight, such as attention, and stay the same."""
        self.fixed_layers: dict[str, int] = {}
        """MACs of layers that no group narrows, by their name."""
        for row in np.flatnonzero((stays > 0) & (weights >= 0)):
            layer = layer_of(self.names[weights[row]])
            self.fixed_layers[layer] = self.fixed_layers.get(layer, 0) + int(stays[row])
        self._plan = plan

    def touched(self, dimension: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Say which tensors, and which operations, have a size or bits that a dimension decides."""
        if dimension < self.num_narrowed:
            own = slice(dimension, dimension + 1)
            return self.tensors.products.touched(own)[0], self.operations.touched(own)[0]
        layers = list(self._plan.layers_of(dimension))
        rows = np.isin(list(map(layer_of, self.names)), layers)
        rows[self.zeros.of_dimension(dimension)] = True
        return rows, (self.weights >= 0) & rows[self.weights]

    def linear_sum(self, factors: Row) -> tuple[int, Row]:
        """Add up elements times a factor of each tensor, over those that are linear in the widths.

        Args:
            factors: Shape ``(tensors,)``.

        Returns:
            What there is without any unit, and what a unit of each group adds.
        """
        none_and_one_each = np.eye(self.num_narrowed + 1, self.num_narrowed, -1, dtype=np.int64)
        elements = self.tensors.products.only(self.is_linear).of_widths(none_and_one_each)
        found = elements @ factors[self.is_linear]
        return int(found[0]), found[1:] - found[0]


@dataclass(slots=True)
class Tensors:
    """Some of a model's parameters and buffers, whose sizes follow the widths."""

    products: Products
    precision: Precision
    rows: Row
    """Which of the model's tensors they are."""
    columns: Row
    """Which of the weights that have zeros they are, -1 for the others."""
    zeroed: Row = field(init=False)
    """Places of those that have zeros."""

    def __post_init__(self) -> None:
        self.zeroed = np.flatnonzero(self.columns >= 0)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Tensors:
        """Return some of them."""
        products, precision = self.products.only(chosen), self.precision.only(chosen)
        return Tensors(products, precision, self.rows[chosen], self.columns[chosen])


class Zeros:
    """Elements that are not made zero, of the weights of which some are."""

    def __init__(
        self, kept: Sequence[KeptElements], tensors: Mapping[str, Tensor], space: SearchSpace
    ) -> None:
        """Work out how many elements stay at each level."""
        index = {name: row for row, name in enumerate(tensors)}
        self.rows = np.array([index[one.tensor] for one in kept], dtype=np.int64)
        """Which of the model's tensors the weights are."""
        self.whole = np.array([tensors[one.tensor].numel() for one in kept], dtype=np.int64)
        self.outputs = np.array([len(tensors[one.tensor]) for one in kept], dtype=np.int64)
        self._always = np.array([one.always for one in kept], dtype=np.int64)
        self._dimensions = np.array([d for one in kept for d in one.by_unit], dtype=np.int64)
        tables = []
        for one in kept:
            for dimension, sizes in one.by_unit.items():
                amounts = np.array(space.dimensions[dimension].amounts)
                tables.append(np.cumsum([0, *sizes])[amounts])
        ends = np.cumsum([0, *map(len, tables)])
        self._table = np.concatenate([np.zeros(0, dtype=np.int64), *tables])
        self._starts = ends[:-1]
        self._first = np.cumsum([0, *(len(one.by_unit) for one in kept)])[:-1]

    def of_dimension(self, dimension: int) -> Row:
        """Return the rows of the weights of which a dimension makes elements zero."""
        number = np.searchsorted(
            self._first, np.flatnonzero(self._dimensions == dimension), "right"
        )
        return self.rows[number - 1]

    def kept(self, levels: Levels) -> Integers:
        """Return the elements that stay, shape ``(variants, weights)``."""
        by_dimension = self._table[self._starts + levels[:, self._dimensions]]
        total: Integers = self._always + np.add.reduceat(by_dimension, self._first, axis=1)
        return total


class Variants:
    """A batch of variants, and what they consist of; worked out when asked for."""

    def __init__(self, model: CountedModel, levels: Levels, *, as_it_is: bool = False) -> None:
        """Keep the levels, shape ``(variants, D)``.

        Args:
            model: Whose variants they are.
            levels: Which.
            as_it_is: Nothing is quantized, whatever the levels and the job say.
        """
        self.model = model
        self.levels = levels
        self.as_it_is = as_it_is
        self.amounts = model.space.amounts(levels)
        self.units = self.amounts[:, : model.num_narrowed]
        """Units kept of what becomes narrower."""

    @functools.cached_property
    def tensors(self) -> TensorTable:
        """All tensors, a column each."""
        return TensorTable(self, self.model.tensors)

    @functools.cached_property
    def others(self) -> TensorTable:
        """Those that are not linear in the widths, see :meth:`CountedModel.linear_sum`."""
        return TensorTable(self, self.model.others)

    @functools.cached_property
    def macs(self) -> Integers:
        """Multiplications of each operation for one sample, shape ``(variants, operations)``."""
        found = self.model.operations.of_widths(self.units) * self.model.constants
        if len(self.model.zeros.rows) and not self.as_it_is:
            gone = (self.model.zeros.whole - self.kept)[:, self.model.zeroed_columns]
            found[:, self.model.zeroed_operations] -= gone * self.model.macs_per_element
        return found

    @functools.cached_property
    def kept(self) -> Integers:
        """Elements that are not zero, of the weights of which some are."""
        return self.model.zeros.kept(self.levels)

    @functools.cached_property
    def bits_per_mac(self) -> Integers:
        """Bits of the weight times those of the other factor, as :attr:`macs`."""
        precision, own = self.model.of_operations, self.model.own_bits
        bits = self.bits_of(precision)
        found = bits.stored**2 if self.as_it_is else precision.bops_per_mac(bits, self.amounts)
        # What has no weight is not quantized.
        return np.where(self.model.weights >= 0, found, own.max(initial=0) ** 2)

    def bits_of(self, precision: Precision) -> BitTable:
        """Look up the bits of tensors."""
        return precision.as_it_is(len(self.levels)) if self.as_it_is else precision.of(self.amounts)


class TensorTable:
    """Tensors of a batch of variants; tables have the shape ``(variants, tensors)``."""

    def __init__(self, variants: Variants, tensors: Tensors) -> None:
        """Keep which tensors of which variants."""
        self._variants, self._tensors = variants, tensors
        self._zeroed = tensors.zeroed
        self._columns = tensors.columns[tensors.zeroed]

    @functools.cached_property
    def _lengths(self) -> npt.NDArray[np.float64]:
        return self._tensors.products.lengths(self._variants.units)

    @functools.cached_property
    def _dense(self) -> Integers:
        return product(self._lengths)

    @functools.cached_property
    def elements(self) -> Integers:
        """Elements of each tensor that are not made zero."""
        if not len(self._zeroed):
            return self._dense
        found = self._dense.copy()
        found[:, self._zeroed] = self._variants.kept[:, self._columns]
        return found

    @functools.cached_property
    def bits(self) -> BitTable:
        """Bits of each element."""
        return self._variants.bits_of(self._tensors.precision)

    @functools.cached_property
    def stored_bytes(self) -> Integers:
        """Bytes that each tensor takes in the file, with the scales of what is quantized."""
        found = self._tensors.precision.stored_bytes(self.bits, self._lengths, self._dense)
        if len(self._zeroed):
            outputs = self._variants.model.zeros.outputs[self._columns]
            dense, stored = self._dense[:, self._zeroed], self.bits.stored[:, self._zeroed]
            packed = sparse_bytes(outputs, dense // outputs, self.elements[:, self._zeroed], stored)
            codes = (dense * stored + 7) >> 3
            found[:, self._zeroed] += np.minimum(packed, codes) - codes
        return found


def _operations(
    graph: Graph, lengths: AxisLengths, names: Sequence[str]
) -> tuple[Products, Row, Row]:
    """Gather the multiplications of a graph, a row for each weight and shape.

    Returns:
        Products of lengths that follow the widths, what each is multiplied by, and the index of the
        tensor that is multiplied by, -1: none.
    """
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
    constants, weights = [*rows.values()], [weight for weight, _ in rows]
    products = Products.of(factors, len(lengths.groups))
    return products, np.array(constants, np.int64), np.array(weights, np.int64)
