"""Least-squares reconstruction: each layer's weights are fitted to what is left of its inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.model.layers import is_convolution
from rl_compress.repair.activations import (
    calibration_pass,
    hooked,
    observe_outputs,
    output_rows,
    repairable_layers,
)
from rl_compress.targets.target import Target

_ROWS = 8192
"""Samples and positions that a fit uses at most; more are drawn from with replacement."""

_SEED = 0


def reconstruct(
    model: nn.Module,
    reference: nn.Module,
    target: Target,
    kept: Mapping[str, Tensor],
    *,
    max_batches: int,
    ridge: float = 1e-3,
) -> int:
    """Fit linear layers and convolutions to the reference's outputs, in forward order.

    With the layer's own inputs X (one row per sample and position) and the reference's outputs Y,
    both centred where the layer has a bias, the weights become::

        W <- W + (X'X + r I)^-1 X'(Y - X W)        r = ridge * mean(diagonal of X'X)
        b <- mean(Y) - mean(X) W

    which is ridge regression towards the present weights (He et al., "Channel Pruning for
    Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1, as AMC uses it). Later layers
    see the outputs of the fitted ones before them. Deterministic: positions are drawn with a fixed
    seed. BatchNorm statistics are left as they are.

    Args:
        model: The variant, in evaluation mode; changed in place by assigning new weights and
            biases, never by writing into one.
        reference: The uncompressed network, in evaluation mode, with the same layer names.
        target: Supplies the calibration split.
        kept: For each narrowed layer the reference's output channels that it keeps, in the
            variant's order, shape ``(channels,)``.
        max_batches: Calibration batches to use.
        ridge: Pull towards the present weights, relative to the mean square of the inputs.

    Returns:
        The number of layers fitted. Grouped and transposed convolutions, layers with a weight that
        other modules share, layers called more than once, and those that mix tokens which are
        channels of a narrowed layer, are passed over.
    """
    run = calibration_pass(target, model, max_batches)
    generator = torch.Generator().manual_seed(_SEED)

    def sample(layer: nn.Module, output: Tensor) -> tuple[int, Tensor, Tensor]:
        rows = output_rows(layer, output)
        chosen = torch.arange(len(rows))
        if len(rows) > _ROWS:
            chosen = torch.randint(len(rows), (_ROWS,), generator=generator)
        chosen = chosen.to(rows.device)
        return len(rows), chosen, rows[chosen]

    expected = observe_outputs(reference, run, sample)
    layers = {
        name: layer
        for name, layer in repairable_layers(model).items()
        if _is_fitted(layer) and name in expected
    }
    names = {layer: name for name, layer in layers.items()}

    fitted: list[str] = []

    def fit(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        name = names[layer]
        total, chosen, outputs = expected[name]
        if _count_rows(layer, arguments[0]) != total:
            return  # rows of the reference are missing here
        if name in kept:
            outputs = outputs[:, kept[name].to(outputs.device)]
        rows = _input_rows(layer, arguments[0], chosen)
        _solve(layer, rows.double(), outputs.double(), ridge)
        fitted.append(name)

    with hooked([layer.register_forward_pre_hook(fit) for layer in layers.values()]):
        run(model)
    return len(fitted)


_PLAIN = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


def _is_fitted(layer: nn.Module) -> bool:
    # A layer with a forward pass of its own may pad its inputs, or scale its weight.
    return type(layer).forward in _PLAIN and getattr(layer, "groups", 1) == 1


def _count_rows(layer: nn.Module, inputs: Tensor) -> int:
    """Return the number of rows of a layer's output, as :func:`output_rows` numbers them."""
    if not is_convolution(layer):
        return inputs.numel() // inputs.shape[-1]
    padding = layer._reversed_padding_repeated_twice
    around = [padding[2 * i] + padding[2 * i + 1] for i in reversed(range(len(padding) // 2))]
    padded = [size + more for size, more in zip(inputs.shape[2:], around, strict=True)]
    return len(inputs) * math.prod(_out_sizes(layer, padded))


def _out_sizes(layer: _ConvNd, sizes: Sequence[int]) -> list[int]:
    """Return how many windows fit along each axis of padded inputs."""
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [
        (size - span) // stride + 1
        for size, span, stride in zip(sizes, spans, layer.stride, strict=True)
    ]


def _input_rows(layer: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
    """Return what some output positions see.

    Args:
        layer: Linear layer or convolution.
        inputs: Its input.
        chosen: Rows of its output, as :func:`output_rows` numbers them, shape ``(rows,)``.

    Returns:
        Shape ``(rows, weights per output channel)``, in the order of the layer's weight.
    """
    if not is_convolution(layer):
        return inputs.reshape(-1, inputs.shape[-1])[chosen]
    # Only the windows asked for are gathered: unfolding whole images would take kernel-size times
    # their memory.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    sizes = padded.shape[2:]
    out_sizes = _out_sizes(layer, sizes)
    corner = _flat(_unravelled(chosen % math.prod(out_sizes), out_sizes), layer.stride, sizes)
    taps = itertools.product(*(range(k) for k in layer.kernel_size))
    offsets = torch.tensor(list(taps), device=chosen.device).T
    offset = _flat(list(offsets), layer.dilation, sizes)
    sample = chosen // math.prod(out_sizes)
    windows = padded.flatten(2)[sample[:, None], :, corner[:, None] + offset]
    return windows.transpose(1, 2).flatten(1)


def _unravelled(index: Tensor, sizes: list[int]) -> list[Tensor]:
    """Return the coordinates of flat indices into an array of these sizes."""
    coordinates: list[Tensor] = []
    for size in reversed(sizes):
        coordinates.insert(0, index % size)
        index = index // size
    return coordinates


def _flat(coordinates: list[Tensor], steps: tuple[int, ...], sizes: torch.Size) -> Tensor:
    """Return the flat index, into an array of these sizes, of coordinates times steps."""
    index = torch.zeros_like(coordinates[0])
    for coordinate, step, size in zip(coordinates, steps, sizes, strict=True):
        index = index * size + coordinate * step
    return index


def _solve(layer: Any, inputs: Tensor, outputs: Tensor, ridge: float) -> None:
    """Assign the fitted weight and bias.

    Args:
        layer: Linear layer or convolution.
        inputs: X, shape ``(rows, weights per output channel)``.
        outputs: Y, shape ``(rows, output channels)``.
        ridge: Relative to the mean diagonal of X'X.
    """
    weight = layer.weight.detach().double().flatten(1)
    residual = outputs - inputs @ weight.T
    mean_in, mean_residual = inputs.mean(dim=0), residual.mean(dim=0)
    if layer.bias is not None:
        inputs, residual = inputs - mean_in, residual - mean_residual
    # (X'X + r I)^-1 X' = X' (XX' + r I)^-1: the smaller system is solved.
    is_wide = inputs.shape[0] < inputs.shape[1]
    gram = inputs @ inputs.T if is_wide else inputs.T @ inputs
    pull = ridge * (gram.diagonal().sum() / inputs.shape[1])
    if not 0 < pull < torch.inf:
        return  # silent inputs say nothing about the weights, and broken ones nothing good
    gram.diagonal().add_(pull)
    factor = torch.linalg.cholesky(gram)
    if is_wide:
        change = torch.cholesky_solve(residual, factor).T @ inputs
    else:
        change = torch.cholesky_solve(inputs.T @ residual, factor).T
    dtype = layer.weight.dtype
    fitted = (weight + change).reshape(layer.weight.shape).to(dtype)
    layer.weight = nn.Parameter(fitted, requires_grad=False)
    if layer.bias is not None:
        bias = mean_residual - change @ mean_in
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
