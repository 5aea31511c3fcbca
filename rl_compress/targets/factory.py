"""From the `target` section of a job to a target object and its model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rl_compress.errors import ConfigError, TargetError
from rl_compress.model.plain_weights import plain_weights
from rl_compress.registry import TARGETS
from rl_compress.targets.checkpoint import load_weights
from rl_compress.targets.target import Target
from rl_compress.targets.user_code import summary
from rl_compress.validation import did_you_mean

_PROGRAM = "__main__"

HELD = "memory:model"
"""Name of the factory of a model that the program holds in memory."""

_LENT: dict[str, Callable[..., Any]] = {}
"""Factories of the program that this process works for, by name."""


class TargetConfig(BaseModel):
    """The `target` section of a job."""

    model_config = ConfigDict(extra="forbid")

    factory: str = Field(
        description=f"A built-in target ({', '.join(TARGETS.built_in)}) or "
        "`package.module:callable`."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the factory."
    )
    weights: str | None = Field(
        default=None,
        description="File of weights (.safetensors, .pth or .pt) for the model that is built.",
    )
    weights_key: str | None = Field(
        default=None,
        description="Which of the file's entries they are, as `ema` or `model.state_dict`; needed "
        "only where several fit.",
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
            f"target.factory: {config.factory} failed ({summary(error)}); call it in Python with "
            f"the same options to see all"
        ) from error
    if not isinstance(target, Target):
        raise TargetError(
            f"target.factory: {config.factory} must return an rl_compress.targets.Target, "
            f"but returned {type(target).__name__}"
        )
    for name in ("forward", "labels"):
        if name in vars(target):
            raise TargetError(
                f"target.factory: the target's attribute {name} hides the method {name}(…) of "
                f"Target; rename it in {type(target).__name__}"
            )
    return target


def build_model(target: Target, config: TargetConfig) -> nn.Module:
    """Build the uncompressed model, with the weights of ``config.weights`` where given.

    Args:
        target: What :func:`make_target` made of ``config``.
        config: Names the file of weights; see :func:`load_weights`.

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
            f"target.factory: building the model of {config.factory} failed ({summary(error)})"
        ) from error
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"target.factory: build() of {config.factory} must return a torch.nn.Module, "
            f"but returned {type(model).__name__}"
        )
    _check_state(model, config.factory)
    if config.weights:
        load_weights(model, Path(config.weights).expanduser(), config.weights_key)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            key = (
                f"target.weights: {config.weights}" if config.weights else "target.factory: build()"
            )
            raise TargetError(
                f"{key} gives {name} NaN or infinite values; train the model again or take an "
                f"earlier checkpoint"
            )
    return plain_weights(model.cpu().eval())


def _check_state(model: nn.Module, factory: str) -> None:
    """Make sure that a model's state can be read, and later written without a pickle."""
    try:
        state = model.state_dict()
    except Exception as error:
        raise TargetError(
            f"target.factory: the state of the model of {factory} cannot be read ({summary(error)})"
        ) from error
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TargetError(
                f"target.factory: {name} of the model of {factory} is no tensor but of type "
                f"{type(value).__name__}, and cannot be saved without a pickle; let "
                f"get_extra_state return a tensor, or take it out of the module"
            )
        if is_lazy(value) or value.is_meta:
            raise TargetError(
                f"target.factory: {name} of the model of {factory} has no values yet; let build() "
                f"call the model once, or load its weights"
            )


def locate_factory(name: str) -> tuple[str, str]:
    """Return the module and the attribute that a factory's name stands for; nothing is imported.

    Raises:
        TargetError: It is neither built in nor ``package.module:callable``.
    """
    try:
        module_name, _, attribute = TARGETS.path(name).partition(":")
    except ValueError as error:
        raise TargetError(f"target.factory: {error}, but got {name!r}") from None
    return module_name, attribute


def own_factory(name: str) -> Callable[..., Any] | None:
    """Return a factory that no other process can import, as it is of the program itself.

    Args:
        name: ``__main__:callable``, or that of a model held in memory; None is returned for others.

    Raises:
        TargetError: The program has no such callable.
    """
    return _find(name) if name == HELD or locate_factory(name)[0] == _PROGRAM else None


def lend_factory(name: str, factory: Callable[..., Any] | None) -> None:
    """Let a name of ``__main__`` stand for the factory of the program that this process works for.

    Args:
        name: As in the job.
        factory: What :func:`own_factory` returned there.
    """
    if factory is not None:
        _LENT[name] = factory


def take_back_factory(name: str) -> None:
    """Undo :func:`lend_factory`."""
    _LENT.pop(name, None)


def _find(name: str) -> Callable[..., Any]:
    """Return the function or class that a factory's name stands for."""
    if name in _LENT:
        return _LENT[name]
    if name == HELD:
        raise TargetError(
            "target.factory: the model was given by a program that held it in memory; give it "
            "again: search(model=…, data=…), or load_compressed(folder, model=…)"
        )
    locate_factory(name)
    try:
        return TARGETS.find(name)
    except ConfigError as error:
        raise TargetError(f"target.factory: {error}") from error.__cause__


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
                f"{did_you_mean(key, known)}; it takes {', '.join(known) or 'none'}"
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


def _is_finite(tensor: Tensor) -> bool:
    # Extremes are NaN where any value is, and need no tensor of the same size.
    return not tensor.numel() or all(bool(x.isfinite()) for x in tensor.aminmax())
