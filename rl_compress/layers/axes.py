"""Which axes of a layer's tensors carry its output channels, and which its input channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
SUPPORTED = (_ConvNd, nn.Linear, nn.Embedding, *_NORMS)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of one tensor, and where the units of one group lie on it."""

    tensor: str
    """Name of the parameter or buffer."""
    axis: int
    positions: npt.NDArray[np.int64]
    """Indices on the axis, shape ``(num_units, indices_per_unit)``, row by unit."""


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def quantizable_weights(
    model: nn.Module, skips: Callable[[str], bool] = lambda _layer: False
) -> dict[str, int]:
    """Return the weights that can be quantized, by full name, with the axis of their outputs.

    Args:
        model: Its convolutions and linear layers count; of tied weights the first.
        skips: Says of a layer's name whether it is left as it is.
    """
    known = named_tensors(model)
    return {
        f"{name}.weight" if name else "weight": int(bool(getattr(layer, "transposed", False)))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
        and not skips(name)
        and (f"{name}.weight" if name else "weight") in known
    }


def layer_of(weight: str) -> str:
    """Return the name of the layer that a tensor, given by its full name, belongs to."""
    return weight.rpartition(".")[0]


def is_depthwise(layer: nn.Module) -> bool:
    """Say whether every channel of a convolution has a filter of its own."""
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def tensor_axes(layer: nn.Module, *, output: bool) -> list[tuple[str, int]]:
    """List the ``(tensor, axis)`` pairs of a layer that its output or input channels run along.

    Raises:
        NotImplementedError: The layer's kind is not supported.
    """
    if isinstance(layer, _ConvNd):
        # A depthwise filter belongs to one channel, which is its input and its output.
        output = output or is_depthwise(layer)
        if layer.transposed and layer.groups > 1 and not is_depthwise(layer):
            raise NotImplementedError("grouped transposed convolution")
        weight_axis = 0 if output != layer.transposed or is_depthwise(layer) else 1
        axes = [("weight", weight_axis)]
        return [*axes, ("bias", 0)] if output and layer.bias is not None else axes
    if isinstance(layer, nn.Linear):
        axes = [("weight", 0 if output else 1)]
        return [*axes, ("bias", 0)] if output and layer.bias is not None else axes
    if isinstance(layer, nn.Embedding):
        return [("weight", 1)]
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1:
        raise NotImplementedError("LayerNorm over several axes")
    if isinstance(layer, _NORMS):
        tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        return [(name, 0) for name, tensor in tensors.items() if tensor.ndim and tensor.numel() > 1]
    raise NotImplementedError(f"layer of kind {type(layer).__name__}")


def channel_groups(layer: nn.Module) -> int:
    """Return into how many equal parts a layer's channels fall that must stay equally wide."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, _ConvNd) and not is_depthwise(layer):
        return layer.groups
    return 1


def match_widths(layer: nn.Module, *, depthwise: bool) -> None:
    """Set a layer's channel counts to those of its tensors, after these have been replaced."""
    if isinstance(layer, _ConvNd):
        first, second = layer.weight.shape[:2]
        if depthwise:
            layer.in_channels = layer.out_channels = layer.groups = first
        elif layer.transposed:
            layer.in_channels, layer.out_channels = first, second
        else:
            layer.in_channels, layer.out_channels = second * layer.groups, first
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.GroupNorm) and layer.affine:
        layer.num_channels = layer.weight.numel()
    elif isinstance(layer, _InstanceNorm | _BatchNorm) and layer.affine:
        layer.num_features = layer.weight.numel()
