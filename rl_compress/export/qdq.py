"""From a float ONNX graph to one whose layers compute with bytes (QDQ).

Pairs of QuantizeLinear and DequantizeLinear say where tensors are bytes; a runtime fuses each
layer with the pairs around it. A tensor has one grid:

- Inputs of layers have that of the layer's own quantizer, where it has one.
- Operations that only move values (pooling by maximum, reshaping, concatenation) have one grid on
  both sides, so that rounding before them is rounding after them.
- Outputs of convolutions and inputs of averaging are given one that is fitted to observed values.
  An addition between such tensors is then computed with bytes too.
- Clipping (ReLU, ReLU6) to bounds that the grid does not exceed goes: rounding to the grid clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_compress.export.onnx_graph import OnnxGraph, attribute

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

_REORDERING = frozenset(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"))
_TAKING = frozenset(("MaxPool", "Slice", "Split", "Concat", "DepthToSpace", "SpaceToDepth"))
_MOVING = _REORDERING | _TAKING
"""Operations whose outputs are values of their inputs."""
_AVERAGING = frozenset(("GlobalAveragePool", "AveragePool"))
_ARITHMETIC = frozenset(("Add", "Mul"))
_WITH_FLOAT_OUTPUT = frozenset(("Gemm", "MatMul"))
"""Layers whose kernels with bytes can also return floats."""
_LARGEST = 255
_MOST_BIAS = float(1 << 30)
"""Largest bias in steps; sums of products are added to it within 32 bits."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Values ``scale (q - zero)`` of the bytes q."""

    scale: float
    zero: int

    @classmethod
    def between(cls, low: float, high: float) -> Grid:
        """Return the grid that reaches from one value to another, and has zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _LARGEST, 1e-8)
        return cls(scale, round(-low / scale))

    @classmethod
    def around(cls, grids: Sequence[Grid]) -> Grid:
        """Return the grid that reaches as far as all of several."""
        first, *others = grids
        if all(grid == first for grid in others):
            return first
        return cls.between(min(grid.low for grid in grids), max(grid.high for grid in grids))

    @property
    def low(self) -> float:
        """Lowest value."""
        return -self.scale * self.zero

    @property
    def high(self) -> float:
        """Highest value."""
        return self.scale * (_LARGEST - self.zero)


@dataclass(frozen=True, slots=True)
class Weight:
    """A layer's weight as bytes with a sign."""

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    """One for each output."""
    axis: int
    """That of the outputs."""

    def dequantized(self) -> npt.NDArray[np.float32]:
        """Return the values."""
        return self.codes * self.along(self.scales)

    def holding(self, bias: npt.NDArray[np.float32], scale: float) -> Weight:
        """Return the same with steps so large that a bias has room in 32 bits.

        Args:
            bias: One value for each output.
            scale: Step of the layer's input.
        """
        return self._with(np.maximum(self.scales, np.abs(bias) / (_MOST_BIAS * scale)))

    def reduced(self, largest: int) -> Weight:
        """Return the same with codes up to a largest one."""
        others = tuple(axis for axis in range(self.codes.ndim) if axis != self.axis)
        reach = np.abs(self.codes.astype(np.int32)).max(others, initial=0)
        return self._with(self.scales * np.maximum(reach / largest, 1.0))

    def _with(self, scales: npt.NDArray[Any]) -> Weight:
        scales = scales.astype(np.float32)
        codes = np.rint(self.dequantized() / self.along(scales)).astype(np.int8)
        return Weight(codes, scales, self.axis)

    def along(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return one value for each output in a shape that the codes are multiplied with."""
        shape = [1] * self.codes.ndim
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that multiplies its first input by a weight, its second."""

    name: str
    """Of the node."""
    weight: Weight
    grid: Grid | None
    """Of its input; None: it is fitted to observed values."""


@dataclass(frozen=True, slots=True)
class _Clipped:
    """A tensor that clipping makes of another."""

    tensor: str
    low: float
    high: float


Observe = Callable[[Sequence[str]], Mapping[str, Grid]]
"""Returns grids that are fitted to a graph's tensors, by their names."""


class QDQ:
    """The rewriting of one graph."""

    def __init__(self, graph: OnnxGraph, layers: Sequence[Layer]) -> None:
        """Look at a graph.

        Args:
            graph: With float tensors; changed by :meth:`rewrite`.
            layers: Those that are to compute with bytes.
        """
        self.graph = graph
        self.layers = {layer.name: layer for layer in layers}
        self._roots: dict[str, str] = {}
        for node in graph.nodes:
            tensors = [*_data_of(node), *node.output]
            if node.op_type in _MOVING and all(graph.rank(t) is not None for t in tensors):
                self._join(tensors)
        self._clipped = dict(self._clippings())
        self._chosen = self._choose()

    def rewrite(self, observe: Observe) -> None:
        """Let the layers compute with bytes, in place.

        Args:
            observe: Is asked once, before anything is changed.
        """
        grids = self._fit(observe)
        self._fold_clipping(grids)
        self._emit(grids)

    def _root(self, tensor: str) -> str:
        while (above := self._roots.get(tensor, tensor)) != tensor:
            tensor = above
        return tensor

    def _join(self, tensors: Iterable[str]) -> None:
        first, *others = map(self._root, tensors)
        self._roots.update({other: first for other in others if other != first})

    def _clippings(self) -> Iterator[tuple[str, _Clipped]]:
        """Yield what is clipped and not read by others, with what clipping makes of it."""
        for node in self.graph.nodes:
            if node.op_type not in ("Relu", "Clip") or node.input[0] in self.graph.inputs:
                continue
            if self.graph.only_reader(node.input[0]) is not node:
                continue
            low, high = (0.0, np.inf) if node.op_type == "Relu" else self._bounds(node)
            if low <= 0.0 <= high:
                yield node.input[0], _Clipped(node.output[0], low, high)

    def _bounds(self, clip: onnx.NodeProto) -> tuple[float, float]:
        """Return the bounds of clipping; NaN where they are not constant."""
        names = [*clip.input[1:], "", ""]
        found = []
        for name, default in zip(names[:2], (-np.inf, np.inf), strict=True):
            value = self.graph.constant(name) if name else np.array(default)
            found.append(np.nan if value is None else float(value))
        return found[0], found[1]

    def _result(self, node: onnx.NodeProto) -> str:
        """Return what a node makes, clipped."""
        output = node.output[0]
        return self._clipped[output].tensor if output in self._clipped else output

    def _choose(self) -> set[str]:
        """Return the roots of the tensors that become bytes."""
        layers = [node for node in self.graph.nodes if node.name in self.layers]
        chosen = {self._root(node.input[0]) for node in layers}
        # The kernel of a convolution with bytes has no other output.
        chosen |= {self._root(self._result(node)) for node in layers if node.op_type == "Conv"}
        # Averages of what convolutions make are read by layers.
        for node in reversed(self.graph.nodes):
            if node.op_type in _AVERAGING and self._root(node.output[0]) in chosen:
                chosen.add(self._root(node.input[0]))
        return chosen

    def _is_byte(self, tensor: str) -> bool:
        return self._root(tensor) in self._chosen

    def _reads_bytes(self, node: onnx.NodeProto) -> bool:
        """Say whether a node computes with bytes."""
        if node.name in self.layers:
            return True
        if node.op_type in _MOVING | _AVERAGING | _ARITHMETIC:
            return all(map(self._is_byte, [*_data_of(node), self._result(node)]))
        return False

    def _makes_bytes(self, node: onnx.NodeProto) -> bool:
        """Say whether all that read a node's outputs find them on their grids."""
        return self._reads_bytes(node) and node.op_type not in _WITH_FLOAT_OUTPUT

    def _all_read_bytes(self, tensor: str) -> bool:
        readers = self.graph.readers[tensor]
        return tensor not in self.graph.outputs and all(map(self._reads_bytes, readers))

    def _fit(self, observe: Observe) -> dict[str, Grid]:
        """Return the grid of each root."""
        known: dict[str, list[Grid]] = {root: [] for root in self._chosen}
        observed: dict[str, str] = {}
        members = [t for node in self.graph.nodes for t in node.output if self._is_byte(t)]
        members += [name for name in self.graph.inputs if self._is_byte(name)]
        for tensor in members:
            maker = self.graph.maker.get(tensor)
            if maker is None or maker.op_type not in _MOVING:
                observed[tensor] = self._root(tensor)
        open_roots = set()
        for tensor in members:
            root = self._root(tensor)
            if tensor in self.graph.outputs:
                open_roots.add(root)
            for reader in self.graph.readers[tensor]:
                layer = self.layers.get(reader.name)
                if layer is not None and layer.grid is not None:
                    known[root].append(layer.grid)
                elif reader.op_type not in _MOVING:
                    open_roots.add(root)
        wanted = {t: r for t, r in observed.items() if r in open_roots or not known[r]}
        for tensor, grid in observe(sorted(wanted)).items():
            known[wanted[tensor]].append(grid)
        grids = {root: Grid.around(found) for root, found in known.items() if found}
        sources = list(observed.values())
        for clipped in self._clipped.values():
            root = self._root(clipped.tensor)
            if root in grids and sources.count(root) == 1:
                low, high = max(grids[root].low, clipped.low), min(grids[root].high, clipped.high)
                if (low, high) != (grids[root].low, grids[root].high):
                    grids[root] = Grid.between(low, high)
        return grids

    def _fold_clipping(self, grids: Mapping[str, Grid]) -> None:
        """Take out clipping that rounding does too."""
        gone = set()
        for before, clipped in self._clipped.items():
            grid = grids.get(self._root(clipped.tensor))
            if grid is None:
                continue
            maker, half = self.graph.maker[before], grid.scale / 2
            fits = clipped.low - half <= grid.low and grid.high <= clipped.high + half
            if fits and (self._makes_bytes(maker) or self._all_read_bytes(clipped.tensor)):
                gone.add(self.graph.maker[clipped.tensor].name)
                maker.output[list(maker.output).index(before)] = clipped.tensor
        self.graph.replace_nodes([node for node in self.graph.nodes if node.name not in gone])

    def _emit(self, grids: Mapping[str, Grid]) -> None:
        """Put the pairs in."""
        import onnx

        nodes: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}

        def pair(tensor: str, source: str, result: str, grid: Grid) -> None:
            scale = self.graph.add_constant(f"{tensor}_scale", np.float32(grid.scale))
            zero = self.graph.add_constant(f"{tensor}_zero", np.uint8(grid.zero))
            for kind, inputs, output in (
                ("QuantizeLinear", source, f"{tensor}_q"),
                ("DequantizeLinear", f"{tensor}_q", result),
            ):
                nodes.append(
                    onnx.helper.make_node(
                        kind, [inputs, scale, zero], [output], name=f"{tensor}_{kind}"
                    )
                )

        for tensor in self.graph.inputs:
            if (grid := grids.get(self._root(tensor))) is not None:
                renamed[tensor] = f"{tensor}_dq"
                pair(tensor, tensor, renamed[tensor], grid)
        for node in self.graph.nodes:
            data = node.input[0] if node.input else ""
            reads, bytes_only, makes = self._reads_bytes(node), self._makes_bytes(node), []
            for place, name in enumerate(node.input):
                if reads and name in renamed:
                    node.input[place] = renamed[name]
            if (layer := self.layers.get(node.name)) is not None:
                nodes += self._weights(node, layer.weight, grids[self._root(data)])
            for place, tensor in enumerate(node.output):
                if (grid := grids.get(self._root(tensor))) is None:
                    continue
                if bytes_only:
                    node.output[place] = f"{tensor}_float"
                    makes.append((tensor, f"{tensor}_float", tensor, grid))
                else:
                    renamed[tensor] = f"{tensor}_dq"
                    makes.append((tensor, tensor, renamed[tensor], grid))
            nodes.append(node)
            for made in makes:
                pair(*made)
        self.graph.replace_nodes(nodes)

    def _weights(self, node: onnx.NodeProto, weight: Weight, grid: Grid) -> list[onnx.NodeProto]:
        """Give a layer its weight, and its bias, as whole numbers."""
        found = []
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None:
            weight = weight.holding(bias, grid.scale)
            scales = (np.float32(grid.scale) * weight.scales).astype(np.float32)
            steps = np.rint(bias / scales).astype(np.int32)
            found.append(self._constant(f"{node.name}_bias", steps, scales, 0))
            node.input[2] = found[-1].output[0]
        found.append(
            self._constant(f"{node.name}_weight", weight.codes, weight.scales, weight.axis)
        )
        node.input[1] = found[-1].output[0]
        return found

    def _constant(
        self, name: str, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32], axis: int
    ) -> onnx.NodeProto:
        import onnx

        inputs = [
            self.graph.add_constant(f"{name}_q", codes),
            self.graph.add_constant(f"{name}_scale", scales),
            self.graph.zeros(len(scales), codes.dtype),
        ]
        return onnx.helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=axis)


def means_to_pools(graph: OnnxGraph) -> None:
    """Turn means over height and width into pooling, which runtimes compute with bytes."""
    import onnx

    nodes = []
    for node in graph.nodes:
        if not _is_spatial_mean(graph, node):
            nodes.append(node)
            continue
        make = onnx.helper.make_node
        keeps = attribute(node, "keepdims", 1)
        pooled = node.output[0] if keeps else graph.add_tensor(f"{node.output[0]}_pooled", 4)
        nodes.append(make("GlobalAveragePool", node.input[:1], [pooled], name=f"{node.name}_pool"))
        if not keeps:
            nodes.append(make("Flatten", [pooled], node.output, name=f"{node.name}_flat"))
    graph.replace_nodes(nodes)


def _is_spatial_mean(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) < 2 or graph.rank(node.input[0]) != 4:
        return False
    axes = graph.constant(node.input[1])
    return axes is not None and sorted(axis % 4 for axis in axes.tolist()) == [2, 3]


def _data_of(node: onnx.NodeProto) -> list[str]:
    several = node.op_type == "Concat" or node.op_type in _ARITHMETIC
    return list(node.input if several else node.input[:1])
