"""A network's architecture as plain data: classes by their import paths, attributes, shapes.

A network is made again from it without calling a constructor, which may need what is not at hand.
What is no plain data, such as a function made within another, cannot be described.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError

_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that every module has; of hooks there must be none."""


class NotPlainError(Exception):
    """A network holds something that is no plain data; the message names it."""


def describe(model: nn.Module, ignoring: type) -> dict[str, Any]:
    """Return a network's architecture, ready for JSON.

    Args:
        model: Any network.
        ignoring: Class of forward pre-hooks that are not part of the architecture.

    Raises:
        NotPlainError: It cannot be described.
    """
    return _Description(ignoring).of(model, "")


def remade(description: dict[str, Any]) -> nn.Module:
    """Return a network that has the architecture described, and any values, on the CPU.

    The classes named are imported; nothing of them is called.

    Raises:
        ConfigError: A class is not where it was; the message says how to do without.
        KeyError: It is no such description. Also TypeError, ValueError.
    """
    return _Remade().of(description)


class _Description:
    def __init__(self, ignoring: type) -> None:
        self._ignoring = ignoring
        self._modules: dict[int, int] = {}
        self._parameters: dict[int, int] = {}

    def of(self, module: nn.Module, name: str) -> dict[str, Any]:
        if id(module) in self._modules:
            return {"same": self._modules[id(module)]}
        self._modules[id(module)] = len(self._modules)
        for kind, hooks in vars(module).items():
            own = hooks.values() if kind in _INTERNAL and kind.endswith("_hooks") else ()
            if any(type(hook) is not self._ignoring for hook in own):
                raise NotPlainError(f"{name or 'the model'} has hooks")
        if module._non_persistent_buffers_set:
            raise NotPlainError(f"{name or 'the model'} has buffers that it does not save")
        extra = {key: value for key, value in vars(module).items() if key not in _INTERNAL}
        described: dict[str, Any] = {
            "class": _path(type(module)),
            "plain": {key: _plain(value, f"{name}.{key}") for key, value in extra.items()},
            "parameters": {key: self._tensor(p) for key, p in module._parameters.items()},
            "buffers": {key: self._tensor(b) for key, b in module._buffers.items()},
            "modules": {
                key: None if child is None else self.of(child, f"{name}.{key}".lstrip("."))
                for key, child in module._modules.items()
            },
        }
        return {key: value for key, value in described.items() if value}

    def _tensor(self, tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        if id(tensor) in self._parameters:
            return self._parameters[id(tensor)]
        self._parameters[id(tensor)] = len(self._parameters)
        return [str(tensor.dtype).removeprefix("torch."), *tensor.shape]


class _Remade:
    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._tensors: list[Tensor] = []

    def of(self, described: dict[str, Any]) -> nn.Module:
        if "same" in described:
            return self._modules[described["same"]]
        kind = _found(described["class"])
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"{described['class']} is no class of modules")
        module: nn.Module = kind.__new__(kind)
        nn.Module.__init__(module)
        self._modules.append(module)
        plain = described.get("plain", {})
        vars(module).update({key: _value(value) for key, value in plain.items()})
        for key, shape in described.get("parameters", {}).items():
            module.register_parameter(key, self._tensor(shape, parameter=True))
        for key, shape in described.get("buffers", {}).items():
            module.register_buffer(key, self._tensor(shape, parameter=False))
        for key, child in described.get("modules", {}).items():
            # Attributes of containers are numbers, so that add_module is what takes all.
            module.add_module(key, None if child is None else self.of(child))
        return module

    def _tensor(self, described: Any, *, parameter: bool) -> Any:
        if described is None:
            return None
        if isinstance(described, int):
            return self._tensors[described]
        dtype, *shape = described
        tensor = torch.zeros(shape, dtype=getattr(torch, dtype))
        self._tensors.append(
            nn.Parameter(tensor, requires_grad=tensor.is_floating_point()) if parameter else tensor
        )
        return self._tensors[-1]


def _path(found: Any) -> str:
    """Return the path by which a class or function is found again."""
    name = getattr(found, "__qualname__", "") or getattr(found, "__name__", "")
    for module in (getattr(found, "__module__", None), "torch"):
        if module and name and "<" not in name:
            try:
                if _found(f"{module}:{name}") is found:
                    return f"{module}:{name}"
            except ConfigError:
                continue
    raise NotPlainError(f"{found!r} is in no module")


def _found(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the model's class {path} cannot be imported ({error}); put its module on PYTHONPATH, "
            f"or give the uncompressed architecture: load_compressed(folder, model=…)"
        ) from None
    return found


def _plain(value: Any, name: str) -> Any:
    """Return a value in a form that survives JSON: what is no JSON of itself is tagged."""
    if value is None or isinstance(value, bool | int | str):
        if type(value) in (bool, int, str, type(None)):
            return value
    elif type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    elif type(value) is list:
        return [_plain(one, name) for one in value]
    elif type(value) in (tuple, torch.Size):
        return {"tuple": [_plain(one, name) for one in value]}
    elif type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _plain(one, name) for key, one in value.items()}}
    elif isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    elif callable(value) and not isinstance(value, nn.Module):
        return {"path": _path(value)}
    raise NotPlainError(f"{name.lstrip('.')} is of type {type(value).__name__}")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    ((tag, value),) = plain.items()
    if tag == "tuple":
        return tuple(_value(one) for one in value)
    if tag == "dict":
        return {key: _value(one) for key, one in value.items()}
    if tag == "dtype":
        return getattr(torch, value)
    return float(value) if tag == "float" else _found(value)
