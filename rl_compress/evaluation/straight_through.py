"""Gradients through rounded activations, without which an attack is blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rl_compress.quantizers.activations import ActivationQuantizer


@contextmanager
def straight_through(model: nn.Module) -> Iterator[None]:
    """Treat the rounding of activations as the identity, when differentiating, within the block.

    The true derivative of rounding is zero nearly everywhere, which would make a quantized model
    look robust to every attack by gradient (Athalye, Carlini and Wagner, "Obfuscated Gradients
    Give a False Sense of Security", ICML 2018, section 4.1). The values stay those that the model
    rounds to.

    Args:
        model: Gets further hooks for the time being.
    """
    handles: list[RemovableHandle] = []
    for layer in model.modules():
        # Torch has no public way to ask for a module's hooks.
        if any(isinstance(hook, ActivationQuantizer) for hook in layer._forward_pre_hooks.values()):
            passing = _Passing()
            handles.append(layer.register_forward_pre_hook(passing.keep, prepend=True))
            handles.append(layer.register_forward_pre_hook(passing.replace))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Passing:
    """Remembers a layer's inputs from before rounding."""

    def __init__(self) -> None:
        self._exact: Tensor | None = None

    def keep(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._exact = inputs[0]

    def replace(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        exact, self._exact = self._exact, None
        assert exact is not None
        return (exact + (inputs[0] - exact).detach(), *inputs[1:])
