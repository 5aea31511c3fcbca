"""What single layers take, measured alone at a few widths.

Convolutions and linear layers are timed by themselves on inputs of the shapes that they get in a
forward pass, as in the latency tables of ProxylessNAS (Cai et al., ICLR 2019) and HAQ (Wang et al.,
CVPR 2019).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.costs.latency import interleaved_latency_ms
from rl_compress.layers.axes import is_depthwise, match_widths, quantizable_weights

FRACTIONS = (0.0625, 0.25, 0.5, 0.75, 1.0)
"""Fractions of a layer's outputs, and of its inputs, at which it is measured."""
WARMUP, REPEATS = 2, 15


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


def measure_layers(
    model: nn.Module,
    inputs: Sequence[Tensor],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[LayerTimes]:
    """Measure every convolution and linear layer of a model alone, over a grid of its widths.

    Args:
        model: Model in evaluation mode, on the device of the inputs; left as it is.
        inputs: One batch, batch first.
        advance: Hears of the layers done, and of their total.

    Returns:
        The layers that are called, in the model's order; equal ones are measured once.
    """
    axes = quantizable_weights(model)
    layers: dict[str, Any] = {n: model.get_submodule(n.rpartition(".")[0]) for n in axes}
    calls = _record_calls(model, layers, inputs)
    measured: dict[Any, tuple[npt.NDArray[Any], ...]] = {}
    found = []
    for done, (name, made) in enumerate(calls.items()):
        layer = layers[name]
        key = (type(layer), layer.extra_repr(), *made.inputs)
        if key not in measured:
            measured[key] = _measure(layer, axes[name], made, inputs[0].device)
        first, second, ms = measured[key]
        length = layer.weight.shape[axes[name]]
        found.append(
            LayerTimes(name, first, second, ms, axes[name], made.output_elements // length)
        )
        advance(done + 1, len(calls))
    return found


def _record_calls(
    model: nn.Module, layers: dict[str, Any], inputs: Sequence[Tensor]
) -> dict[str, _Calls]:
    calls: dict[str, _Calls] = {}
    names = {layer: name for name, layer in layers.items()}

    def note(layer: nn.Module, arguments: Any, output: Tensor) -> None:
        made = calls.setdefault(names[layer], _Calls())
        made.inputs.append(tuple(arguments[0].shape))
        made.dtype = arguments[0].dtype
        made.output_elements += output.numel()

    hooks = [layer.register_forward_hook(note) for layer in names]
    try:
        with torch.inference_mode():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: calls[name] for name in layers if name in calls}


def _measure(
    layer: Any, output_axis: int, calls: _Calls, device: torch.device
) -> tuple[npt.NDArray[Any], ...]:
    groups = 1 if is_depthwise(layer) else int(getattr(layer, "groups", 1))
    first = _grid(layer.weight.shape[0], groups)
    second = _grid(layer.weight.shape[1], 1)
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
    ms = np.array(interleaved_latency_ms(runs, warmup=WARMUP, repeats=REPEATS))
    times = [calls.inputs.count(shape) for shape in shapes]
    return first, second, ms.reshape(len(first), len(second), len(shapes)) @ np.array(times)


def _grid(length: int, step: int) -> npt.NDArray[np.int64]:
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
    match_widths(narrowed, depthwise=is_depthwise(layer))
    return narrowed.eval()


def _input_shape(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an input with as many channels as a layer takes."""
    if isinstance(layer, _ConvNd):
        axis = len(shape) - len(layer.kernel_size) - 1
        return (*shape[:axis], layer.in_channels, *shape[axis + 1 :])
    return (*shape[:-1], layer.in_features)  # type: ignore[arg-type]
