"""Bias correction: each layer's mean output is brought back to what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rl_compress.finetuning.activations import (
    calibration_inputs,
    channels_last,
    first_outputs,
    hooked,
    weighted_layers,
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

    ``b <- b + E[y_reference] - E[y]``, layer by layer in forward order, each seeing the corrected
    layers before it (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, with means
    from data).

    Args:
        model: The variant, changed in place by assigning new biases.
        reference: The uncompressed network.
        target: Supplies the calibration split.
        kept: For each narrowed layer the reference's output channels that it keeps.
        max_batches: Calibration batches to use.

    Returns:
        The number of biases corrected; layers without a bias are passed over.
    """
    inputs = calibration_inputs(target, model, max_batches)
    expected = first_outputs(reference, inputs)
    layers = {name: layer for name, layer in weighted_layers(model).items() if layer.bias is not None}
    names = {layer: name for name, layer in layers.items()}
    done: set[str] = set()

    def correct(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        name = names[layer]
        if name in done or name not in expected:
            return output
        done.add(name)
        wanted = channels_last(expected[name], layer).mean(dim=0)
        if name in kept:
            wanted = wanted[kept[name].to(wanted.device)]
        shift = wanted - channels_last(output, layer).mean(dim=0)
        layer.bias = nn.Parameter(layer.bias + shift, requires_grad=False)
        spread = [1, -1, *[1] * (output.ndim - 2)] if output.ndim > 2 else [-1]
        return output + (shift if isinstance(layer, nn.Linear) else shift.reshape(spread))

    with hooked([layer.register_forward_hook(correct) for layer in layers.values()]):
        model(inputs)
    return len(done)
