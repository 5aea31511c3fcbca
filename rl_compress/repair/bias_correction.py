"""Bias correction: each layer's mean output is brought back to what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rl_compress.model.layers import channel_axis
from rl_compress.repair.activations import (
    calibration_pass,
    hooked,
    observe_outputs,
    output_rows,
    repairable_layers,
)
from rl_compress.targets.target import Target


def correct_bias(
    model: nn.Module,
    reference: nn.Module,
    target: Target,
    kept: Mapping[str, Tensor],
    *,
    max_batches: int,
) -> int:
    """Add to every bias the mean error of its layer's output on the calibration split.

    ``b <- b + E[y_reference] - E[y]`` per output channel, layer by layer in forward order, each
    layer seeing the corrected ones before it (Nagel et al., "Data-Free Quantization", ICCV 2019,
    section 4.2, with means from data).

    Args:
        model: The variant, in evaluation mode; changed in place by assigning new biases, never by
            writing into one.
        reference: The uncompressed network, in evaluation mode, with the same layer names.
        target: Supplies the calibration split.
        kept: For each narrowed layer the reference's output channels that it keeps, in the
            variant's order, shape ``(channels,)``.
        max_batches: Calibration batches to use.

    Returns:
        The number of biases corrected. Layers without a bias, with a weight that other modules
        share, or called more than once are passed over.
    """
    run = calibration_pass(target, model, max_batches)
    expected = observe_outputs(reference, run, _channel_means)
    layers = {
        name: layer
        for name, layer in repairable_layers(model).items()
        if layer.bias is not None and name in expected
    }
    names = {layer: name for name, layer in layers.items()}

    def correct(layer: Any, _inputs: Any, output: Tensor) -> Tensor:
        name = names[layer]
        wanted = expected[name]
        if name in kept:
            wanted = wanted[kept[name].to(wanted.device)]
        shift = wanted - _channel_means(layer, output)
        layer.bias = nn.Parameter(layer.bias + shift, requires_grad=False)
        behind = output.ndim - 1 - channel_axis(layer) % output.ndim
        return output + shift.reshape(-1, *[1] * behind)

    with hooked([layer.register_forward_hook(correct) for layer in layers.values()]):
        run(model)
    return len(layers)


def _channel_means(layer: nn.Module, output: Tensor) -> Tensor:
    return output_rows(layer, output).mean(dim=0)
