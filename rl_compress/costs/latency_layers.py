"""What single layers take, measured alone at a few widths.

Convolutions and linear layers are timed by themselves on inputs of the shapes that they get in a
forward pass, as in the latency tables of ProxylessNAS (Cai et al., ICLR 2019) and HAQ (Wang et al.,
CVPR 2019).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.model.axes import match_widths, quantizable_weights
from rl_compress.model.layers import channels_read, is_convolution, is_depthwise
from rl_compress.model.nested import Inputs, call
from rl_compress.targets.target import device_of

FRACTIONS = (0.0625, 0.25, 0.5, 0.75, 1.0)
"""Fractions of a layer's outputs, and of its inputs, at which it is measured."""


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Milliseconds that a layer takes in a forward pass of a batch, all its calls together."""

    weight: str
    """Name of its weight."""
    first: npt.NDArray[np.int64]
    """Lengths of the weight's axis 0 at which it was measured, increasing, shape ``(n,)``."""
    second: npt.NDArray[np.int64]
    """Lengths of its axis 1, likewise, shape ``(m,)``."""
    ms: npt.NDArray[np.float64]
    """Median of each, shape ``(n, m)``."""
    output_axis: int
    """Axis of the weight that is as long as there are output channels."""
    elements: int
    """Elements of its outputs for each index of that axis, for the batch."""


@dataclass(slots=True)
class _Calls:
    """How a layer is called in a forward pass."""

    inputs: list[tuple[int, ...]] = field(default_factory=list)
    """Shape of the input of each call."""
    dtype: torch.dtype = torch.float32
    output_elements: int = 0


@dataclass(frozen=True, slots=True)
class _Grid:
    """The forward passes that tell what one layer, or several equal ones, take."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    runs: list[tuple[nn.Module, tuple[Tensor]]]
    """For each shape of the weight, row by row, one for each shape of its inputs."""
    times: npt.NDArray[np.int64]
    """How often each shape of its inputs comes up in a forward pass of the model."""


class LayerGrids:
    """Every convolution and linear layer that a model calls, by itself, over a grid of widths."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        """Make the layers.

        Args:
            model: Model in evaluation mode, on the device of the inputs; left as it is.
            inputs: One batch, batch first.
        """
        axes = quantizable_weights(model)
        layers: dict[str, Any] = {n: model.get_submodule(n.rpartition(".")[0]) for n in axes}
        self._grids: dict[Any, _Grid] = {}
        self._layers: list[tuple[str, Any, int, int]] = []
        for name, calls in _record_calls(model, layers, inputs).items():
            layer, axis = layers[name], axes[name]
            key = (type(layer), layer.extra_repr(), *calls.inputs)
            if key not in self._grids:
                self._grids[key] = _make_grid(layer, axis, calls, device_of(model))
            elements = calls.output_elements // layer.weight.shape[axis]
            self._layers.append((name, key, axis, elements))

    @property
    def runs(self) -> list[tuple[nn.Module, tuple[Tensor]]]:
        """What is to be measured; equal layers are measured once."""
        return [run for grid in self._grids.values() for run in grid.runs]

    def times(self, ms: npt.NDArray[np.float64]) -> list[LayerTimes]:
        """Return the layers in the model's order.

        Args:
            ms: What each of the runs took, shape ``(runs,)``.
        """
        tables: dict[Any, npt.NDArray[np.float64]] = {}
        start = 0
        for key, grid in self._grids.items():
            stop = start + len(grid.runs)
            shape = (len(grid.first), len(grid.second), len(grid.times))
            tables[key] = ms[start:stop].reshape(shape) @ grid.times
            start = stop
        return [
            LayerTimes(
                name, self._grids[key].first, self._grids[key].second, tables[key], axis, elements
            )
            for name, key, axis, elements in self._layers
        ]


def _record_calls(model: nn.Module, layers: dict[str, Any], inputs: Inputs) -> dict[str, _Calls]:
    calls: dict[str, _Calls] = {}
    names = {layer: name for name, layer in layers.items()}

    def note(layer: nn.Module, arguments: Any, output: Tensor) -> None:
        made = calls.setdefault(names[layer], _Calls())
        made.inputs.append(tuple(arguments[0].shape))
        made.dtype = arguments[0].dtype
        made.output_elements += output.numel()

    hooks = [layer.register_forward_hook(note) for layer in names]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: calls[name] for name in layers if name in calls}


def _make_grid(layer: Any, output_axis: int, calls: _Calls, device: torch.device) -> _Grid:
    groups = 1 if is_depthwise(layer) else int(getattr(layer, "groups", 1))
    first = grid_of(layer.weight.shape[0], groups)
    second = grid_of(layer.weight.shape[1], 1)
    # All sizes are cut from the same memory: the largest is all that is needed at once.
    weights = torch.randn(layer.weight.numel(), device=device, dtype=layer.weight.dtype)
    shapes = dict.fromkeys(calls.inputs)
    samples = torch.randn(max(map(math.prod, shapes)), device=device, dtype=calls.dtype)
    runs = []
    for rows in first:
        for columns in second:
            narrowed = _narrowed(layer, weights, int(rows), int(columns), output_axis)
            for shape in shapes:
                size = _input_shape(narrowed, shape)
                runs.append((narrowed, (samples[: math.prod(size)].view(size),)))
    times = np.array([calls.inputs.count(shape) for shape in shapes])
    return _Grid(first, second, runs, times)


def grid_of(length: int, step: int) -> npt.NDArray[np.int64]:
    """Return the lengths of an axis to measure: multiples of a step, increasing."""
    wanted = [max(step, round(length * fraction / step) * step) for fraction in FRACTIONS]
    return np.unique(np.array(wanted, dtype=np.int64))


def _narrowed(layer: Any, memory: Tensor, first: int, second: int, output_axis: int) -> nn.Module:
    """Return a copy of a layer with a weight of other lengths along its first two axes."""
    shape = (first, second, *layer.weight.shape[2:])
    memo: dict[int, object] = {
        id(layer.weight): nn.Parameter(memory[: math.prod(shape)].view(shape), requires_grad=False)
    }
    if isinstance(layer.bias, Tensor):
        outputs = layer.bias.numel() * shape[output_axis] // layer.weight.shape[output_axis]
        memo[id(layer.bias)] = nn.Parameter(layer.bias.detach()[:outputs], requires_grad=False)
    narrowed: nn.Module = copy.deepcopy(layer, memo)
    match_widths(narrowed)
    return narrowed.eval()


def _input_shape(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an input with as many channels as a layer takes."""
    # A single sample may lack the axis of samples, so channels are counted from behind.
    axis = len(shape) - 1
    if is_convolution(layer):
        axis -= len(layer.kernel_size)
    return (*shape[:axis], channels_read(layer), *shape[axis + 1 :])
