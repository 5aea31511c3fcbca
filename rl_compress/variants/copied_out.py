"""Copying a variant out of the model, for delivery; and making room for it when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import le

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.model.axes import Axis, layer_of, match_widths, named_tensors, taken
from rl_compress.variants.slimmable import copy_with


def copied_out(model: nn.Module, removed: Iterable[Axis]) -> nn.Module:
    """Return a copy of a model without some positions; what is kept stays in its order.

    Args:
        model: The uncompressed model; left as it is.
        removed: Positions to leave out, of any number of axes.
    """
    tensors = named_tensors(model)
    kept: dict[str, dict[int, npt.NDArray[np.bool_]]] = {}
    for axis in removed:
        length = tensors[axis.tensor].shape[axis.axis]
        keeps = kept.setdefault(axis.tensor, {}).setdefault(axis.axis, np.ones(length, dtype=bool))
        keeps[axis.positions.reshape(-1)] = False
    copied = {}
    for name, tensor in tensors.items():
        chosen = {dim: np.flatnonzero(keeps) for dim, keeps in kept.get(name, {}).items()}
        copied[name] = taken(tensor.detach(), chosen) if chosen else tensor.detach().clone()
    return _in_shape(copy_with(model, copied, trainable=True), kept)


def make_room(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model's parameters and buffers, in place, the smaller shapes that a state has.

    Args:
        model: Of the uncompressed architecture; what changes its shape has any values afterwards.
        state: Tensors by name; those that no cut can have made are passed over.
    """
    narrowed = set()
    for name, tensor in named_tensors(model).items():
        if name in state and _is_part(state[name].shape, tensor.shape):
            narrowed.add(name)
            layer, _, attribute = name.rpartition(".")
            room = torch.empty(state[name].shape, dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                room = nn.Parameter(room, requires_grad=tensor.requires_grad)
            setattr(model.get_submodule(layer), attribute, room)
    _in_shape(model, narrowed)


def _is_part(shape: torch.Size, whole: torch.Size) -> bool:
    return len(shape) == len(whole) and shape != whole and all(map(le, shape, whole))


def _in_shape(model: nn.Module, narrowed: Iterable[str]) -> nn.Module:
    """Let layers know of their tensors' new shapes."""
    for name in narrowed:
        layer, _, attribute = name.rpartition(".")
        # A buffer that the model does not save could not be made again in this shape.
        model.get_submodule(layer)._non_persistent_buffers_set.discard(attribute)
    for layer in dict.fromkeys(map(layer_of, narrowed)):
        match_widths(model.get_submodule(layer))
    return model
