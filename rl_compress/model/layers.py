"""Convolutions and linear layers, and where the channels of what they read and make lie."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def is_weighted(layer: nn.Module | None) -> TypeGuard[nn.Linear | _ConvNd]:
    """Say whether a layer multiplies by a weight: a convolution or a linear layer."""
    return isinstance(layer, nn.Linear | _ConvNd)


def is_convolution(layer: nn.Module | None) -> TypeGuard[_ConvNd]:
    """Say whether a layer is a convolution, transposed or not."""
    return isinstance(layer, _ConvNd)


def is_batchnorm(layer: nn.Module) -> TypeGuard[_BatchNorm]:
    """Say whether a layer normalises by statistics of batches."""
    return isinstance(layer, _BatchNorm)


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of channels in what a layer reads and makes: linear layers have them last."""
    return -1 if isinstance(layer, nn.Linear) else 1


def channels_read(layer: nn.Linear | _ConvNd) -> int:
    """Return how many channels a layer reads."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def kind_of(layer: nn.Module) -> str:
    """Return what a layer is to users: conv, depthwise, grouped or linear."""
    if not isinstance(layer, _ConvNd):
        return "linear"
    if is_depthwise(layer):
        return "depthwise"
    return "grouped" if layer.groups > 1 else "conv"


def is_depthwise(layer: nn.Module) -> bool:
    """Say whether every channel of a convolution has a filter of its own."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def along_inputs(layer: nn.Linear | _ConvNd, values: Tensor) -> Tensor:
    """Give values of a layer's input channels the shape in which they meet its weight."""
    if isinstance(layer, nn.Linear):
        return values[None, :]
    kernel = [1] * len(layer.kernel_size)
    if isinstance(layer, _ConvTransposeNd):
        return values.reshape(-1, 1, *kernel)
    # The filters of each part of a grouped convolution see the channels of that part.
    by_part = values.reshape(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
    return by_part.reshape(layer.out_channels, -1, *kernel)
