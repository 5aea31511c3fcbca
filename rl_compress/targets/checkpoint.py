"""Weights from a file: found in whatever a training script kept beside them, read without code."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_compress.errors import TargetError

State = OrderedDict[str, Tensor]
"""Tensors by name; may have its modules' versions as an attribute, as torch's state dicts do."""

_LISTED = 4
"""Names in an error message."""

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch puts in where it wraps a module."""

_AVERAGED = "n_averaged"
"""What torch's ``AveragedModel`` counts beside the weights."""

_COUNTER = "num_batches_tracked"
"""Of BatchNorm; old files lack it."""


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> None:
    """Read a file's weights into a model.

    They are the file's whole contents, or the one entry of them that fits the model. Their names
    may begin with what DataParallel and the like put there.

    Args:
        model: Of the same architecture.
        path: Safetensors, or what ``torch.save`` wrote; the latter is read without unpickling code.
        key: Name of the entry, points between levels, where several fit.

    Raises:
        TargetError: It cannot be read, nothing in it fits, or more than one entry does.
    """
    loaded = _read(path)
    found = dict(_states(loaded if key is None else _entry(loaded, key, path)))
    if not found:
        raise TargetError(
            f"target.weights: {path} must hold a state dict of tensors; save model.state_dict(), "
            f"or say in target.weights_key where it is"
        )
    wanted: State = OrderedDict(model.state_dict())
    fits: dict[str, tuple[State, list[str]]] = {}
    for entry, state in found.items():
        spelled = [_completed(wanted, spelling) for spelling in _spellings(state)]
        misfits = [(one, _misfit(wanted, one)) for one in spelled]
        fits[entry] = min(misfits, key=lambda pair: len(pair[1]))
    fitting = [entry for entry, (_, wrong) in fits.items() if not wrong]
    if len(fitting) > 1:
        raise TargetError(
            f"target.weights: {path} has several state dicts that fit the model; say in "
            f"target.weights_key which: {' or '.join(fitting)}"
        )
    entry = fitting[0] if fitting else min(fits, key=lambda name: len(fits[name][1]))
    state, wrong = fits[entry]
    try:
        # Some modules translate names of their earlier versions, so torch has the last word.
        model.load_state_dict(state if wrong else with_versions(state, model))
    except Exception as error:
        wrong = wrong or [" ".join(str(error).split())]
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise TargetError(
            f"target.weights: {path}{f' ({entry})' if entry else ''} does not fit the model "
            f"({', '.join(wrong[:_LISTED])}{more}); give the weights of this architecture, or the "
            f"options that it was trained with"
        ) from None


def with_versions(state: Mapping[str, Tensor], model: nn.Module) -> State:
    """Return a state dict that tells its modules' versions, without which some do not load.

    Args:
        state: Tensors by name; its own versions are kept, if it has any.
        model: Whose versions are taken otherwise.
    """
    versions = getattr(state, "_metadata", None) or model.state_dict()._metadata  # type: ignore[attr-defined]
    told = OrderedDict(state)
    told._metadata = versions  # type: ignore[attr-defined]
    return told


def _read(path: Path) -> Any:
    if not path.is_file():
        raise TargetError(
            f"target.weights: there is no file {path}; the path is relative to {os.getcwd()}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Scripts keep their arguments beside the weights: plain values, with names.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TargetError(
            f"target.weights: {path} is not a readable safetensors file ({error}); save it again"
        ) from None
    except pickle.UnpicklingError:
        raise TargetError(
            f"target.weights: {path} holds more than tensors, or is damaged, and is not unpickled "
            f"because that can run any code; save model.state_dict() alone, best as .safetensors"
        ) from None
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise TargetError(
            f"target.weights: {path} cannot be read ({type(error).__name__}: {text}); save it again"
        ) from None


def _entry(loaded: Any, key: str, path: Path) -> Any:
    """Return what a file holds under a key."""
    for part in [key] if isinstance(loaded, Mapping) and key in loaded else key.split("."):
        if not isinstance(loaded, Mapping) or part not in loaded:
            names = list(map(str, loaded)) if isinstance(loaded, Mapping) else []
            raise TargetError(
                f"target.weights_key: {path} has no entry {key!r}; instead of {part!r} there is "
                f"{', '.join(names[:_LISTED]) or 'nothing'}"
            )
        loaded = loaded[part]
    return loaded


def _states(loaded: Any, name: str = "", depth: int = 2) -> Iterator[tuple[str, State]]:
    """Yield the state dicts in a file by name: its whole contents, or entries of them."""
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        return
    nested = any(isinstance(value, Mapping) for value in loaded.values())
    if not nested and any(isinstance(value, Tensor) for value in loaded.values()):
        yield name, _renamed(loaded, lambda key: key)
    elif depth:
        for key, value in loaded.items():
            yield from _states(value, f"{name}.{key}" if name else key, depth - 1)


def _spellings(state: State) -> Iterator[State]:
    """Yield a state without wrappers' parts of names, then without what all names begin with."""
    state = _renamed(state, lambda key: ".".join(p for p in key.split(".") if p not in _WRAPPERS))
    yield state
    while len({name.partition(".")[0] for name in state if name != _AVERAGED}) == 1:
        state = _renamed(state, lambda key: key.partition(".")[2])
        yield state


def _renamed(state: Mapping[str, Any], rename: Callable[[str], str]) -> State:
    """Return the tensors of a state under other names, as its modules' versions; "" is left out."""
    kept = ((rename(name), value) for name, value in state.items() if isinstance(value, Tensor))
    renamed = OrderedDict((name, value) for name, value in kept if name)
    if versions := getattr(state, "_metadata", None):
        renamed._metadata = {rename(name): of for name, of in versions.items()}  # type: ignore[attr-defined]
    return renamed


def _completed(wanted: State, state: State) -> State:
    """Add what files leave out: tensors under their other names, and counts of old BatchNorms."""
    places = {_place(wanted[name]): name for name in state if name in wanted}
    completed = _renamed(state, lambda name: name)
    for name in wanted.keys() - state.keys():
        if (twin := places.get(_place(wanted[name]))) is not None:
            completed[name] = state[twin]
        elif name.rpartition(".")[2] == _COUNTER:
            completed[name] = wanted[name]
    return completed


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tied tensors have in common, and no others."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def _misfit(wanted: State, state: State) -> list[str]:
    """Say what of a state does not fit the model's own."""
    return [
        *(f"missing {name}" for name in wanted if name not in state),
        *(f"unexpected {name}" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ),
    ]
