"""Copies of modules: what copy.deepcopy makes of them, in a fraction of its time."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

_PLAIN = (int, float, bool, str, bytes, complex, type(None), type, torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, list, set)


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a model.

    Most of a module is empty dictionaries and plain values, which need none of deepcopy's care;
    all else is left to it.

    Args:
        model: The model; left as it is.
        memo: What is in the place of objects, by their id, as in deepcopy.
    """
    memo = {} if memo is None else memo
    found: nn.Module = _copied(model, memo)
    return found


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind: Any = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(item) in _PLAIN for item in value)):
        return value
    if (known := memo.get(id(value))) is not None:
        return known
    if kind in (dict, OrderedDict):
        memo[id(value)] = mapping = kind()
        for key, item in value.items():
            mapping[_copied(key, memo)] = _copied(item, memo)
        return mapping
    if kind in _CONTAINERS and not value:
        memo[id(value)] = empty = kind()
        return empty
    if isinstance(value, nn.Module) and _is_ordinary(kind):
        memo[id(value)] = module = kind.__new__(kind)
        module.__setstate__({key: _copied(item, memo) for key, item in vars(value).items()})
        return module
    return copy.deepcopy(value, memo)


def _is_ordinary(kind: Any) -> bool:
    """Say whether deepcopy copies a kind's attributes, and nothing else."""
    own = ("__deepcopy__", "__copy__", "__getnewargs_ex__", "__getnewargs__")
    return (
        not any(hasattr(kind, name) for name in own)
        and kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )
