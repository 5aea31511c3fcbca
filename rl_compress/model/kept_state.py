"""What a forward pass leaves in a model: kept from those that only measure it.

A model may count its calls, keep a running mean or make a table when it first needs one. A score
must not change the model by that, must not leave tensors in it that cannot be trained with (those
made in torch's inference mode cannot), and must not write into tensors that variants share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def own_buffers(model: nn.Module) -> nn.Module:
    """Give a model copies of its buffers, which its forward pass may write into.

    Args:
        model: Changed in place by assigning new buffers; those that are one stay one.
    """
    _own_buffers(model.modules())
    return model


def _own_buffers(modules: Iterable[nn.Module]) -> None:
    copies: dict[int, Tensor] = {}
    for module in modules:
        for name, buffer in module._buffers.items():
            if isinstance(buffer, Tensor):
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Put back a model's buffers and training flags at the end.

    Other tensors in it that were made in inference mode become ordinary ones.
    """
    modules = list(model.modules())
    before = [(module, dict(module._buffers), module.training) for module in modules]
    _own_buffers(modules)
    try:
        yield
    finally:
        for module, buffers, training in before:
            module._buffers.update(buffers)
            module.training = training
            for owner in (module._buffers, vars(module)):
                for name, value in list(owner.items()):
                    if isinstance(value, Tensor) and value.is_inference():
                        owner[name] = value.clone()
