"""Least-squares reconstruction: each layer's weights are fitted anew to what is left of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.finetuning.activations import (
    calibration_inputs,
    channels_last,
    first_outputs,
    hooked,
    weighted_layers,
)
from rl_compress.targets.target import Target

_ROWS = 8192
"""Samples and positions that a fit uses at most."""

_RIDGE = 1e-3
"""Weight of the distance to the present weights, relative to the inputs' mean square."""


def reconstruct(
    model: nn.Module,
    reference: nn.Module,
    target: Target,
    kept: Mapping[str, Tensor],
    *,
    max_batches: int,
) -> int:
    """Fit linear layers and 2-D convolutions to the reference's outputs, in forward order.

    With the layer's own inputs X (one row per sample and position) and the reference's outputs Y,
    both centred where the layer has a bias, the weights become
    ``W + (X'X + r I)^-1 X'(Y - X W)``: ridge regression towards the present weights
    (He et al., "Channel Pruning", ICCV 2017, section 3.1, as AMC uses it). Later layers see the
    outputs of the fitted ones before them.

    Args:
        model: The variant, changed in place by assigning new weights and biases.
        reference: The uncompressed network.
        target: Supplies the calibration split.
        kept: For each narrowed layer the reference's output channels that it keeps.
        max_batches: Calibration batches to use.

    Returns:
        The number of layers fitted; grouped, transposed and other convolutions are passed over.
    """
    inputs = calibration_inputs(target, model, max_batches)
    expected = first_outputs(reference, inputs)
    layers = {name: layer for name, layer in weighted_layers(model).items() if _is_fitted(layer)}
    names = {layer: name for name, layer in layers.items()}
    done: set[str] = set()

    def fit(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        name = names[layer]
        if name in done or name not in expected:
            return
        done.add(name)
        outputs = channels_last(expected[name], layer)
        if name in kept:
            outputs = outputs[:, kept[name].to(outputs.device)]
        rows = _input_rows(layer, arguments[0])
        step = -(-len(rows) // _ROWS)
        _solve(layer, rows[::step].double(), outputs[::step].double())

    with hooked([layer.register_forward_pre_hook(fit) for layer in layers.values()]):
        model(inputs)
    return len(done)


def _is_fitted(layer: nn.Module) -> bool:
    if isinstance(layer, _ConvNd):
        return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    return True


def _input_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what each output position sees, shape ``(samples and positions, weights per output)``."""
    if not isinstance(layer, nn.Conv2d):
        return inputs.reshape(-1, inputs.shape[-1])
    padding = layer.padding
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if padding == "same":
            inputs = nn.functional.pad(
                inputs,
                [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2],
            )
        padding = (0, 0)
    patches = nn.functional.unfold(
        inputs, layer.kernel_size, layer.dilation, padding, layer.stride
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _solve(layer: Any, inputs: Tensor, outputs: Tensor) -> None:
    """Assign the fitted weight and bias."""
    weight = layer.weight.detach().double().reshape(len(layer.weight), -1)
    centre_in = inputs.mean(dim=0) if layer.bias is not None else torch.zeros_like(inputs[0])
    centre_out = outputs.mean(dim=0) if layer.bias is not None else torch.zeros_like(outputs[0])
    centred = inputs - centre_in
    gram = centred.T @ centred
    ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
    gram.diagonal().add_(ridge)
    residual = (outputs - centre_out) - centred @ weight.T
    weight = weight + torch.linalg.solve(gram, centred.T @ residual).T
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(
        weight.reshape(layer.weight.shape).to(dtype), requires_grad=False
    )
    if layer.bias is not None:
        bias = centre_out - weight @ centre_in
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
