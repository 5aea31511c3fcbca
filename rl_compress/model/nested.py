"""Tensors in tuples, lists and mappings: what a model is called with, and what it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.errors import TargetError

Inputs = tuple[Any, ...] | dict[str, Any]
"""Arguments of a forward pass: all by place, or all by name."""


def call(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> Any:
    """Run a model on arguments by place, or by name."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def tensors_in(nest: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nest, which may lie in tuples, lists, mappings and dataclasses."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for value in nest.values():
            yield from tensors_in(value)
    elif isinstance(nest, list | tuple):
        for value in nest:
            yield from tensors_in(value)
    elif dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        yield from tensors_in([getattr(nest, field.name) for field in dataclasses.fields(nest)])


def mapped(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """Return a nest with a function's results in the place of its tensors.

    Mappings of a type that cannot be made of another mapping become dictionaries.
    """
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, Mapping):
        found = {key: mapped(function, value) for key, value in nest.items()}
        try:
            return found if type(nest) is dict else type(nest)(found)  # type: ignore[call-arg]
        except Exception:
            return found
    if isinstance(nest, list | tuple):
        parts = [mapped(function, value) for value in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)
    return nest


def joined(nests: Sequence[Any]) -> Any:
    """Return nests of one form as one, their tensors concatenated along the first axis.

    Raises:
        TargetError: The tensors are of several shapes.
    """
    try:
        parts = zip(*(tensors_in(nest) for nest in nests), strict=True)
        tensors = iter([torch.cat(part) for part in parts])
    except (RuntimeError, ValueError) as error:
        raise TargetError(
            f"target: batches of several shapes cannot be joined ({str(error).splitlines()[0]}); "
            f"pad all samples of the split to one length"
        ) from error
    return mapped(lambda _: next(tensors), nests[0])


def repeated(inputs: Any, samples: int, device: torch.device) -> Any:
    """Return inputs of one sample as a batch of that sample many times, on a device."""
    return mapped(
        lambda one: one.repeat(samples, *[1] * (one.ndim - 1)).to(device) if one.ndim else one,
        inputs,
    )


def num_samples(nest: Any) -> int:
    """Return the length of the first axis of a nest's first tensor; 0 where it has none."""
    first = next(tensors_in(nest), None)
    return len(first) if first is not None and first.ndim else 0


def arguments_of(model: nn.Module, run: Callable[[], Any]) -> Inputs:
    """Return what a model is first called with while a function runs.

    Raises:
        TargetError: It is not called, or with arguments that have no name beside those that have.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    if not calls:
        raise TargetError("target: forward() must call the model that it is given")
    args, kwargs = calls[0]
    if not kwargs:
        return args
    names = list(inspect.signature(model.forward).parameters)[: len(args)]
    if len(names) < len(args) or set(names) & set(kwargs):
        raise TargetError(
            "target: forward() must call the model with arguments all by place or all by name"
        )
    return {**dict(zip(names, args, strict=True)), **kwargs}
