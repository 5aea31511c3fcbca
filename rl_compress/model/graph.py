"""The graph of a model: the operations of one forward pass, with the positions on all their axes.

A model runs once on an example, and every operation that torch carries out says how the channels of
its inputs lie in its results. So whatever a forward pass does in Python is followed without being
understood, and the walk ends when the forward pass does. What is found is an offer; it is the proof
that holds it against the model (:mod:`rl_compress.variants.proof`).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from rl_compress.errors import UnsupportedLayerError
from rl_compress.model import arithmetic, movement
from rl_compress.model.axes import (
    layer_of,
    named_tensors,
    quantizable_weights,
    unsupported_layers,
)
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, call, mapped, tensors_in
from rl_compress.model.operation import Labels, Operation, fitted, stays
from rl_compress.model.positions import Positions

logger = logging.getLogger(__name__)

_RULES = {**movement.RULES, **arithmetic.RULES}


@dataclass(slots=True)
class Activation:
    """A piece of memory that operations write results into."""

    nbytes: int
    labels: Labels
    """Of the first tensor that lay in it."""


@dataclass(slots=True)
class Graph:
    """What one forward pass of the uncompressed model did."""

    positions: Positions
    operations: list[Operation] = field(default_factory=list)
    """Without their tensors."""
    tensors: dict[str, Labels] = field(default_factory=dict)
    """Positions on the axes of the parameters and buffers that were used, by name."""
    order: dict[str, int] = field(default_factory=dict)
    """Number of the first call of each module."""
    sources: list[tuple[int, ...]] = field(default_factory=list)
    """For each operation those that made its operands, in their order."""
    results: tuple[int, ...] = ()
    """The operations that made the model's outputs."""
    activations: list[Activation] = field(default_factory=list)
    alive: list[tuple[int, ...]] = field(default_factory=list)
    """For each operation the activations that are in memory when it has run."""

    @property
    def macs(self) -> int:
        """Return the multiplications of the uncompressed model."""
        return sum(product.macs for op in self.operations for product in op.products)


def trace(
    model: nn.Module, example_inputs: Inputs, choices: Mapping[int, int] | None = None
) -> Graph:
    """Follow the channels through one forward pass.

    Args:
        model: On the CPU, in evaluation mode; left as it is.
        example_inputs: Inputs of the forward pass, batch first.
        choices: By number of an operation, which way to take where an axis falls into several.

    Raises:
        UnsupportedLayerError: The forward pass failed, or there is no tensor in its result.
    """
    inputs = mapped(torch.clone, example_inputs)
    with kept_state(model), plain_operations(), torch.no_grad():
        tracer = _Tracer(model, choices or {})
        for tensor in tensors_in(inputs):
            tracer.enter(tensor)
        try:
            with tracer.watching(model), tracer:
                outputs = list(tensors_in(found := call(model, inputs)))
        except Exception as error:
            raise UnsupportedLayerError(
                f"target: the model's forward pass failed on example_inputs() "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
            ) from error
    if not outputs:
        raise UnsupportedLayerError(
            f"target: the model must return a tensor, or several in a tuple or mapping, but "
            f"returned {type(found).__name__}; wrap it in a module that returns the logits alone"
        )
    return tracer.finish(outputs)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Let attention layers run as the operations they are made of, instead of one fused kernel."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Tracer(TorchDispatchMode):
    """Sees every operation, and asks its rule where the channels go."""

    def __init__(self, model: nn.Module, choices: Mapping[int, int]) -> None:
        super().__init__()
        self.graph = Graph(Positions())
        self._choices = choices
        self._named = named_tensors(model)
        self._kinds = unsupported_layers(model)
        self._kernels = set(quantizable_weights(model))
        self._names = {id(tensor): name for name, tensor in self._named.items()}
        # Views that were made without an operation, such as `parameter.data`, share the storage.
        self._storages = {
            (tensor.untyped_storage().data_ptr(), tensor.shape, tensor.stride()): name
            for name, tensor in self._named.items()
        }
        self._weights = {
            StorageWeakRef(tensor.untyped_storage()).cdata for tensor in self._named.values()
        }
        self._labels: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._makers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._origins: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._means: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._unrelated: dict[int, Operation] = {}
        self._live: dict[StorageWeakRef, int] = {}
        self._wholes: list[weakref.ref[Tensor]] = []
        """Of each activation the first tensor that lay in it."""
        self._layers: list[str] = []

    def enter(self, tensor: Tensor) -> None:
        """Take in an input of the model."""
        self._labels[tensor] = stays(tensor)
        self._note_storage(tensor, stays(tensor))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the modules that are running."""
        names = {module: name for name, module in model.named_modules()}

        def begin(module: nn.Module, _inputs: Any) -> None:
            self.graph.order.setdefault(names[module], len(self.graph.order))
            self._layers.append(names[module])

        def end(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
            self._layers.pop()

        # Scripted modules take no hooks.
        own = [module for module in names if not isinstance(module, torch.jit.ScriptModule)]
        hooks = [module.register_forward_pre_hook(begin) for module in own]
        hooks += [module.register_forward_hook(end) for module in own]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self, outputs: Sequence[Tensor]) -> Graph:
        """Close the graph: the model's outputs stay as they are."""
        for tensor in outputs:
            for ids in self._labels_of(tensor):
                if ids is not None:
                    self.graph.positions.keep(ids, "its channels are the model's output")
        for op in self._unrelated.values():
            for ids in op.means:
                op.keep(ids, "their mean is taken")
        makers = (self._makers.get(tensor) for tensor in outputs)
        self.graph.results = tuple(dict.fromkeys(m for m in makers if m is not None))
        return self.graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = [self._labels_of(tensor) for tensor in operands]
        shapes = [tensor.shape for tensor in operands]
        outputs = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        graph = self.graph
        index = len(graph.operations)
        op = Operation(
            index=index,
            name=_name(func),
            func=func,
            layer=self._layers[-1] if self._layers else "",
            args=args,
            kwargs=kwargs,
            operands=operands,
            results=results,
            inputs=inputs,
            weights=[self._weight(tensor) for tensor in operands],
            makers=[self._maker_name(tensor) for tensor in operands],
            positions=graph.positions,
            choice=self._choices.get(index, 0),
        )
        if any(tensor.shape != shape for tensor, shape in zip(operands, shapes, strict=True)):
            op.outputs = arithmetic.followed_no_further(op)  # changed in place, as by resize_
        else:
            op.outputs = _outputs(op)
        op.outputs = [
            fitted(labels, tensor) for labels, tensor in zip(op.outputs, results, strict=True)
        ]
        self._watch_means(op)
        # A weight that is computed from parameters alone, such as a standardised one, is a weight.
        origin = _origin(op)
        for result, labels in zip(results, op.outputs, strict=True):
            self._labels[result] = labels
            self._makers[result] = index
            if origin is not None:
                self._origins[result] = origin
            self._note_storage(result, labels)
        if func._schema.is_mutable and results:
            self._note_written(results[0], op.outputs[0])
        graph.sources.append(tuple(self._makers.get(tensor, -1) for tensor in operands))
        self._live = {ref: number for ref, number in self._live.items() if not ref.expired()}
        # Only shapes are needed from here on; a tensor that is held would count as alive.
        op.args, op.kwargs, op.operands, op.results = (), {}, [], []
        graph.operations.append(op)
        del operands, results
        graph.alive.append(tuple(self._live.values()))
        return outputs

    def _maker_name(self, tensor: Tensor) -> str:
        maker = self._makers.get(tensor)
        return "" if maker is None else self.graph.operations[maker].name

    def _watch_means(self, op: Operation) -> None:
        """Keep in mind means over channels until they are put in relation to these."""
        if op.means:
            self._means[op.results[0]] = op.index
            self._unrelated[op.index] = op
        if op.name in ("sub", "rsub", "div"):
            present = [ids for labels in op.inputs for ids in labels]
            for tensor in op.operands:
                taken = self._unrelated.get(self._means.get(tensor, -1))
                if taken and any(ids is mean for ids in present for mean in taken.means):
                    del self._unrelated[taken.index]

    def _labels_of(self, tensor: Tensor) -> Labels:
        if tensor in self._labels:
            labels: Labels = self._labels[tensor]
            return labels
        name = self._weight(tensor)
        if name is None or not tensor.is_floating_point():
            return [None] * tensor.ndim
        if name not in self.graph.tensors:
            labels = [self.graph.positions.new(size) if size > 1 else None for size in tensor.shape]
            if name in self._kernels:
                labels[2:] = stays(tensor)[2:]
            self.graph.tensors[name] = labels
            layer = layer_of(name)
            for ids in labels if layer in self._kinds else ():
                if ids is not None:
                    reason = f"not supported: layer {layer} of kind {self._kinds[layer]}"
                    self.graph.positions.keep(ids, reason)
        return self.graph.tensors[name]

    def _weight(self, tensor: Tensor) -> str | None:
        if (name := self._names.get(id(tensor))) is not None:
            return name
        if tensor in self._origins:
            origin: str = self._origins[tensor]
            return origin
        if tensor in self._labels or tensor.ndim == 0:
            return None
        place = (tensor.untyped_storage().data_ptr(), tensor.shape, tensor.stride())
        return self._storages.get(place)

    def _note_storage(self, tensor: Tensor, labels: Labels) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata not in self._weights and reference not in self._live:
            self._live[reference] = len(self.graph.activations)
            self.graph.activations.append(Activation(storage.nbytes(), list(labels)))
            self._wholes.append(weakref.ref(tensor))

    def _note_written(self, part: Tensor, labels: Labels) -> None:
        """Let memory that is filled through views have the channels that it is filled with."""
        number = self._live.get(StorageWeakRef(part.untyped_storage()))
        whole = None if number is None else self._wholes[number]()
        if number is None or whole is None or whole is part or whole.ndim != part.ndim:
            return
        own = zip(self._labels_of(whole), labels, strict=True)
        merged = fitted([ids if known is None else known for known, ids in own], whole)
        self._labels[whole] = self.graph.activations[number].labels = merged


def _name(func: Any) -> str:
    name: str = func._schema.name.removeprefix("aten::")
    # An operation in place moves channels as its namesake that makes a new tensor.
    return name.rstrip("_") if func._schema.is_mutable and not name.endswith("__") else name


def _origin(op: Operation) -> str | None:
    """Return the name of the weight that a result is, if no operand is anything else."""
    pairs = zip(op.weights, op.inputs, strict=True)
    large = [name for name, labels in pairs if any(ids is not None for ids in labels)]
    return large[0] if large and all(large) else None


def _outputs(op: Operation) -> list[Labels]:
    """Ask an operation's rule; one that fails is as good as none."""
    try:
        found: list[Labels] = _rule(op)(op)
        if len(found) == len(op.results):
            return found
    except Exception as error:
        logger.debug("%s cannot be followed", op.place, exc_info=error)
    return arithmetic.followed_no_further(op)


def _rule(op: Operation) -> Any:
    if (rule := _RULES.get(op.name)) is not None:
        return rule
    if torch.Tag.pointwise in op.func.tags:
        return arithmetic.pointwise
    return arithmetic.followed_no_further
