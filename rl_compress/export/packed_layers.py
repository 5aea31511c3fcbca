"""Layers that keep their weights packed in memory, and expand them for as long as they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rl_compress.export.packed_state import parts_of, unpacked
from rl_compress.model.axes import layer_of, unsupported_layers


def pack_layers(
    model: nn.Module,
    stored: Mapping[str, Tensor],
    descriptions: Mapping[str, Mapping[str, Any]],
    tied: frozenset[str],
) -> None:
    """Put packed weights, in place, where a model has expanded ones.

    Args:
        model: Loaded, with all weights expanded.
        stored: The tensors of the file.
        descriptions: Of its packed weights; see :func:`rl_compress.export.packed_state.pack_state`.
        tied: Weights that several layers share; they stay as they are, and so do those that another
            module reads without calling their layer.
    """
    others = unsupported_layers(model)
    for name, description in descriptions.items():
        layer, attribute = model.get_submodule(layer_of(name)), name.rpartition(".")[2]
        if name in tied or layer_of(layer_of(name)) in others:
            continue
        dtype = layer.get_parameter(attribute).dtype
        del layer._parameters[attribute]
        parts = parts_of(name, stored)
        for part, tensor in parts.items():
            layer.register_buffer(f"{attribute}_{part}", tensor, persistent=False)
        keeper = _Packed(attribute, tuple(parts), description, dtype)
        layer.register_forward_pre_hook(keeper.expand)
        layer.register_forward_hook(keeper.drop, always_call=True)


class _Packed:
    def __init__(
        self, attribute: str, parts: tuple[str, ...], description: Mapping[str, Any], dtype: Any
    ) -> None:
        self._attribute, self._parts = attribute, parts
        self._description, self._dtype = description, dtype

    def expand(self, layer: nn.Module, _inputs: Any) -> None:
        tensors = {part: layer.get_buffer(f"{self._attribute}_{part}") for part in self._parts}
        vars(layer)[self._attribute] = unpacked(tensors, self._description).to(self._dtype)

    def drop(self, layer: nn.Module, _inputs: Any, _outputs: Any) -> None:
        vars(layer).pop(self._attribute, None)
