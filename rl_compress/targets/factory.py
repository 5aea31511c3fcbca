"""From the `target` section of a job to a target object and its model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rl_compress.errors import TargetError
from rl_compress.targets.target import Target

_BUILT_IN = {
    "digits": "rl_compress.targets.digits:digits",
    "fashion_mnist": "rl_compress.targets.fashion_mnist:fashion_mnist",
}


class TargetConfig(BaseModel):
    """The `target` section of a job."""

    model_config = ConfigDict(extra="forbid")

    factory: str = Field(
        description="A built-in target (digits, fashion_mnist) or `package.module:callable`."
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
    try:
        inspect.signature(factory).bind(**config.options)
    except TypeError as error:
        raise TargetError(
            f"target.options: {error}; {config.factory} takes {inspect.signature(factory)}"
        ) from None
    try:
        target = factory(**config.options)
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(
            f"target.factory: {config.factory} failed ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(target, Target):
        raise TargetError(
            f"target.factory: {config.factory} must return an rl_compress.targets.Target, "
            f"but returned {type(target).__name__}"
        )
    return target


def build_model(target: Target, config: TargetConfig) -> nn.Module:
    """Build the uncompressed model, with the weights of ``config.weights`` where given.

    Raises:
        TargetError: It cannot be built, or its weights cannot be used.
    """
    try:
        model = target.architecture() if config.weights else target.build()
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(
            f"target.factory: building the model of {config.factory} failed "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"target.factory: build() must return a torch.nn.Module, "
            f"but returned {type(model).__name__}"
        )
    if config.weights:
        _load_into(model, Path(config.weights))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TargetError(f"target: the weights {name} hold NaN or infinite values; train anew")
    return model.cpu().eval()


def _find(name: str) -> Callable[..., Any]:
    path = _BUILT_IN.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        close = difflib.get_close_matches(name, _BUILT_IN, n=1)
        hint = f"did you mean {close[0]}?" if close else f"built in: {', '.join(_BUILT_IN)};"
        raise TargetError(
            f"target.factory: unknown factory {name!r}; {hint} "
            f"or name your own as package.module:callable"
        )
    # As `python -m` does: a job beside the user's code finds it.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise TargetError(
                f"target.factory: there is no module {module_name!r} on the path or in {here}"
            ) from None
        raise TargetError(f"target.factory: importing {module_name} failed ({error})") from error
    except Exception as error:
        raise TargetError(
            f"target.factory: importing {module_name} failed ({type(error).__name__}: {error})"
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        close = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TargetError(f"target.factory: module {module_name} has no {attribute!r}{hint}")
    if not callable(found):
        raise TargetError(
            f"target.factory: {path} must be callable, but is {type(found).__name__}"
        )
    return found


def _load_into(model: nn.Module, path: Path) -> None:
    state = _read(path)
    expected = model.state_dict()
    wrong = [
        *(f"missing {name}" for name in expected if name not in state),
        *(f"unexpected {name}" for name in state if name not in expected),
        *(
            f"{name} is {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise TargetError(
            f"target.weights: {path} does not fit the model ({', '.join(wrong[:4])}{more})"
        )
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TargetError(f"target.weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TargetError(
            f"target.weights: {path} is not a readable safetensors file ({error}); save it again"
        ) from None
    except Exception as error:
        raise TargetError(
            f"target.weights: {path} cannot be read without unpickling code "
            f"({' '.join(str(error).split())[:120]}); save model.state_dict() alone"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TargetError(f"target.weights: {path} must hold a state dict of tensors")
    return state
