"""Activations of the calibration split, for repairs that compare a variant with its original."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.targets.target import Target, device_of


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a model by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    }


def calibration_inputs(target: Target, model: nn.Module, max_batches: int) -> Tensor:
    """Return the first batches of the calibration split as one, on the model's device."""
    batches = [
        inputs for _, (inputs, _) in zip(range(max_batches), target.batches("calibration"))
    ]
    return torch.cat(batches).to(device_of(model))


def first_outputs(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return what each convolution and linear layer puts out when it is first called."""
    outputs: dict[str, Tensor] = {}
    layers = weighted_layers(model)
    names = {layer: name for name, layer in layers.items()}

    def note(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.setdefault(names[layer], output)

    with hooked([layer.register_forward_hook(note) for layer in layers.values()]):
        model(inputs)
    return outputs


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end, without gradients in between."""
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def channels_last(outputs: Tensor, layer: nn.Module) -> Tensor:
    """Return a layer's outputs as rows of channels, shape ``(samples and positions, channels)``."""
    rows = outputs.movedim(1, -1) if isinstance(layer, _ConvNd) else outputs
    return rows.reshape(-1, rows.shape[-1])
