"""From the `target` section of a job to a target object and its model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_compress.errors import TargetError
from rl_compress.layers.plain_weights import plain_weights
from rl_compress.targets.target import Target

_BUILT_IN = {
    "digits": "rl_compress.targets.digits:digits",
    "fashion_mnist": "rl_compress.targets.fashion_mnist:fashion_mnist",
    "regression": "rl_compress.targets.regression:regression",
}


_LISTED = 4
"""Names of ill-fitting weights in an error message."""


class TargetConfig(BaseModel):
    """The `target` section of a job."""

    model_config = ConfigDict(extra="forbid")

    factory: str = Field(
        description="A built-in target (digits, fashion_mnist, regression) or "
        "`package.module:callable`."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the factory."
    )
    weights: str | None = Field(
        default=None,
        description="File of weights (.safetensors, .pth or .pt) for the model that is built.",
    )


def make_target(config: TargetConfig) -> Target:
    """Call the factory.

    Raises:
        TargetError: The factory cannot be found or called, or returns something else.
    """
    factory = _find(config.factory)
    _check_options(factory, config)
    try:
        target = factory(**config.options)
    except TargetError:
        raise
    # A module or function that parses the command line ends with SystemExit.
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"target.factory: {config.factory} failed ({_summary(error)}); call it in Python with "
            f"the same options to see all"
        ) from error
    if not isinstance(target, Target):
        raise TargetError(
            f"target.factory: {config.factory} must return an rl_compress.targets.Target, "
            f"but returned {type(target).__name__}"
        )
    return target


def build_model(target: Target, config: TargetConfig) -> nn.Module:
    """Build the uncompressed model, with the weights of ``config.weights`` where given.

    Args:
        target: What :func:`make_target` made of ``config``.
        config: Names the file of weights: safetensors, or a state dict (bare, or under the key
            ``state_dict``) saved by ``torch.save``, which is read without unpickling code.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        TargetError: It cannot be built, its weights cannot be read or do not fit, or they hold NaN
            or infinite values.
    """
    try:
        model = target.architecture() if config.weights else target.build()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"target.factory: building the model of {config.factory} failed ({_summary(error)})"
        ) from error
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"target.factory: build() of {config.factory} must return a torch.nn.Module, "
            f"but returned {type(model).__name__}"
        )
    if config.weights:
        _load_into(model, Path(config.weights).expanduser())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not _is_finite(tensor):
            key = (
                f"target.weights: {config.weights}" if config.weights else "target.factory: build()"
            )
            raise TargetError(
                f"{key} gives {name} NaN or infinite values; train the model again or take an "
                f"earlier checkpoint"
            )
    return plain_weights(model.cpu().eval())


def locate_factory(name: str) -> tuple[str, str]:
    """Return the module and the attribute that a factory's name stands for; nothing is imported.

    Raises:
        TargetError: It is neither built in nor ``package.module:callable``.
    """
    path = _BUILT_IN.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise TargetError(
            f"target.factory: unknown factory {name!r}{_did_you_mean(name, _BUILT_IN)}; built in "
            f"are {', '.join(_BUILT_IN)}; name your own as package.module:callable"
        )
    return module_name, attribute


def _find(name: str) -> Callable[..., Any]:
    """Return the function or class that a factory's name stands for."""
    module_name, attribute = locate_factory(name)
    # As `python -m` does: a job beside the user's code finds it.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_part_of(error.name, module_name):
            raise TargetError(
                f"target.factory: there is no module {error.name!r} (for {name!r}), neither "
                f"installed nor in {here}; start in the folder that holds it, or install it"
            ) from None
        raise TargetError(
            f"target.factory: importing {module_name} failed ({_summary(error)}); "
            f"`python -m {module_name}` shows all"
        ) from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        raise TargetError(
            f"target.factory: module {module_name} has no {attribute!r}"
            f"{_did_you_mean(attribute, dir(module))}; name a function or class in it"
        ) from None
    if not callable(found):
        raise TargetError(
            f"target.factory: {module_name}:{attribute} must be callable, but is of type "
            f"{type(found).__name__}; name a function that returns a Target, or a Target class"
        )
    return found


def _check_options(factory: Callable[..., Any], config: TargetConfig) -> None:
    """Make sure that the factory takes the options, before it is called."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some built-in callables have none
        return
    by_kind: dict[Any, list[inspect.Parameter]] = {}
    for parameter in signature.parameters.values():
        by_kind.setdefault(parameter.kind, []).append(parameter)
    named = [
        *by_kind.get(inspect.Parameter.POSITIONAL_OR_KEYWORD, []),
        *by_kind.get(inspect.Parameter.KEYWORD_ONLY, []),
    ]
    known = [parameter.name for parameter in named]
    for key in config.options:
        if key not in known and inspect.Parameter.VAR_KEYWORD not in by_kind:
            raise TargetError(
                f"target.options.{key}: {config.factory} has no such option"
                f"{_did_you_mean(key, known)}; it takes {', '.join(known) or 'none'}"
            )
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in config.options:
            raise TargetError(
                f"target.options.{parameter.name}: {config.factory} needs it; add it to the job"
            )
    try:
        signature.bind(**config.options)
    except TypeError as error:
        raise TargetError(
            f"target.options: {config.factory} cannot be called with keywords ({error})"
        ) from None


def _load_into(model: nn.Module, path: Path) -> None:
    state = _read(path)
    expected = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    wrong = [
        *(f"missing {name}" for name in expected if name not in state),
        *(f"unexpected {name}" for name in state if name not in expected),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise TargetError(
            f"target.weights: {path} does not fit the model ({', '.join(wrong[:_LISTED])}{more}); "
            f"give the weights of this architecture, or the options that it was trained with"
        )
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TargetError(
            f"target.weights: there is no file {path}; the path is relative to {os.getcwd()}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
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
        raise TargetError(
            f"target.weights: {path} cannot be read ({_summary(error)}); save it again"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TargetError(
            f"target.weights: {path} must hold a state dict of tensors; save model.state_dict()"
        )
    return state


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _is_part_of(missing: str | None, module_name: str) -> bool:
    """Say whether a module that was not found is the one asked for, or a package around it."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _summary(error: BaseException) -> str:
    """Return type, message and place of an error in one line."""
    text = " ".join(str(error).split())[:200]
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if "site-packages" not in frame.filename and "<frozen" not in frame.filename
    ]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {text}{place}"
