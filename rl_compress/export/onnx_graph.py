"""An ONNX graph as it is rewritten: who makes a tensor, who reads it, and what is constant."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


class OnnxGraph:
    """A view of a model's graph, and the few changes that a format makes to it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index a model, which is changed in place."""
        import onnx

        self.model = model
        graph = model.graph
        self._initializers = {entry.name: entry for entry in graph.initializer}
        self.inputs = [entry.name for entry in graph.input if entry.name not in self._initializers]
        self.outputs = [entry.name for entry in graph.output]
        typed = [*graph.value_info, *graph.input, *graph.output]
        self._ranks = {
            entry.name: len(entry.type.tensor_type.shape.dim)
            for entry in typed
            if entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        for number, node in enumerate(graph.node):
            node.name = f"{node.op_type}_{number}"
        self.index()

    def index(self) -> None:
        """Look again at who makes and who reads what, after nodes have been changed."""
        self.maker: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            self.maker.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def to_bytes(self) -> bytes:
        """Return the file, without what only people and exporters read."""
        graph = self.model.graph
        del graph.value_info[:]
        for node in graph.node:
            node.name = node.doc_string = ""
            del node.metadata_props[:]
        content: bytes = self.model.SerializeToString()
        return content

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, each after those whose outputs it reads."""
        return list(self.model.graph.node)

    def rank(self, tensor: str) -> int | None:
        """Return the number of axes of a float tensor that is no constant; None: it is none."""
        return self._ranks.get(tensor)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """Return the values of a constant; None: it is none."""
        import onnx

        entry = self._initializers.get(tensor)
        return None if entry is None else onnx.numpy_helper.to_array(entry)

    def add_tensor(self, name: str, rank: int) -> str:
        """Make a float tensor known that a new node will make, and return its name."""
        self._ranks[name] = rank
        return name

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that alone reads a tensor which is no output of the model."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def add_constant(self, name: str, values: npt.NDArray[Any] | np.generic) -> str:
        """Add a constant and return its name."""
        import onnx

        entry = onnx.numpy_helper.from_array(np.asarray(values), name)
        self.model.graph.initializer.append(entry)
        self._initializers[name] = entry
        return name

    def zeros(self, count: int, dtype: npt.DTypeLike) -> str:
        """Return the name of a constant of zeros, which is there once."""
        name = f"zeros_{np.dtype(dtype).name}_{count}"
        return (
            name if name in self._initializers else self.add_constant(name, np.zeros(count, dtype))
        )

    def replace_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        """Put other nodes, in order, into the graph; constants that none reads go."""
        graph = self.model.graph
        kept = list(nodes)
        del graph.node[:]
        graph.node.extend(kept)
        read = {name for node in kept for name in node.input} | set(self.outputs)
        used = [entry for entry in graph.initializer if entry.name in read]
        del graph.initializer[:]
        graph.initializer.extend(used)
        self._initializers = {entry.name: entry for entry in graph.initializer}
        self.index()


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return a node's attribute."""
    import onnx

    found = (entry for entry in node.attribute if entry.name == name)
    return next((onnx.helper.get_attribute_value(entry) for entry in found), default)


def module_of(node: onnx.NodeProto) -> str:
    """Return the name of the module that a node was exported from, as the exporter noted it."""
    import ast

    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""
