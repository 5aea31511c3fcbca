"""Which axes of a layer's tensors carry its output channels, and which its input channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rl_compress.model.layers import is_depthwise, is_weighted

_BLOCK = 1 << 18
"""Weights that are copied at once."""


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


def taken(tensor: Tensor, indices: Mapping[int, npt.NDArray[np.int64]]) -> Tensor:
    """Return a copy of some positions of a tensor.

    Args:
        tensor: On any device.
        indices: What to take, by axis; other axes stay whole.
    """
    own = {dim: torch.from_numpy(chosen).to(tensor.device) for dim, chosen in indices.items()}
    rows = own.pop(0) if len(own) > 1 and 0 in own else None
    if rows is None:
        for dim, chosen in own.items():
            tensor = tensor.index_select(dim, chosen)
        return tensor
    # A few rows at a time: a large weight takes longer to make room for than to copy.
    shape = [len(indices[dim]) if dim in indices else n for dim, n in enumerate(tensor.shape)]
    result = tensor.new_empty(shape)
    step = max(1, _BLOCK // max(tensor[:1].numel(), 1))
    for chosen, room in zip(rows.split(step), result.split(step), strict=True):
        part = tensor.index_select(0, chosen)
        for dim, columns in own.items():
            part = part.index_select(dim, columns)
        room.copy_(part)
    return result


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
        if is_weighted(layer)
        and not skips(name)
        and (f"{name}.weight" if name else "weight") in known
    }


def unsupported_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers that are left as they are, by name, with their kind."""
    kinds = nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention
    return {
        name: type(layer).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    }


def layer_of(weight: str) -> str:
    """Return the name of the layer that a tensor, given by its full name, belongs to."""
    return weight.rpartition(".")[0]


def output_axis(layer: nn.Module, tensor: str) -> int | None:
    """Return the axis of a layer's tensor that makes channels; None: it is no such weight.

    Args:
        layer: The layer.
        tensor: Name of a parameter within it.
    """
    if tensor != "weight":
        return None
    if isinstance(layer, _ConvNd):
        return int(layer.transposed and not is_depthwise(layer))
    return 0 if isinstance(layer, nn.Linear) else None


def match_widths(layer: nn.Module) -> None:
    """Set a layer's channel counts to those of its tensors, after these have been replaced."""
    if isinstance(layer, _ConvNd):
        first, second = layer.weight.shape[:2]
        if layer.in_channels == layer.groups > 1:
            # Every channel has filters of its own, and goes with them.
            per_channel = layer.out_channels // layer.groups
            layer.in_channels = layer.groups = first if layer.transposed else first // per_channel
            layer.out_channels = layer.groups * per_channel
        elif layer.transposed:
            layer.in_channels, layer.out_channels = first, second * layer.groups
        else:
            layer.in_channels, layer.out_channels = second * layer.groups, first
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    else:
        _match_others(layer)


def _match_others(layer: nn.Module) -> None:
    """Set what normalisations and linear layers, torch's own or not, call their channels."""
    weight, own = getattr(layer, "weight", None), layer.__dict__
    if not isinstance(weight, Tensor) or weight.ndim == 0:
        return
    if weight.ndim == 2:
        # Hugging Face's Conv1D has its weight the other way round.
        sizes = dict(zip(("nx", "nf"), weight.shape, strict=True))
        sizes |= zip(("out_features", "in_features"), weight.shape, strict=True)
        own.update({name: size for name, size in sizes.items() if isinstance(own.get(name), int)})
        return
    if isinstance(own.get("normalized_shape"), tuple | list):
        own["normalized_shape"] = tuple(weight.shape)
    for name in ("num_features", "num_channels"):
        if isinstance(own.get(name), int):
            own[name] = weight.numel()
