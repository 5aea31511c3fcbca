from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets import ClassificationTarget, TargetConfig, make_target
from rl_compress.targets.factory import build_model
from rl_compress.targets.pretrained import PretrainedTarget

_MODULE = """
import sys
from torch import nn, zeros
from torch.utils.data import TensorDataset
from rl_compress.targets import ClassificationTarget

SIZE = 4
NOTHING = None

def make(*, size: int, bias: bool = True):
    split = TensorDataset(zeros(2, size), zeros(2))
    splits = dict.fromkeys(("train", "calibration", "search", "test"), split)
    return ClassificationTarget(lambda: nn.Linear(size, 2, bias=bias), splits)

class Mine(ClassificationTarget):
    def __init__(self, **options):
        self.options = options

def positional(size, /):
    return make(size=size)

def plain_model():
    return nn.Linear(2, 2)

def broken():
    raise ValueError("first line\\nsecond line")

def leaves():
    sys.exit(3)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's module; sys.path and sys.modules are restored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    (tmp_path / "my_job_target.py").write_text(_MODULE)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_job"):
            del sys.modules[name]


def _config(attribute: str, **options: Any) -> TargetConfig:
    return TargetConfig(factory=f"my_job_target:{attribute}", options=options)


def _fails(config: TargetConfig, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        make_target(config)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_built_in_names_are_known() -> None:
    assert isinstance(make_target(TargetConfig(factory="digits")), PretrainedTarget)


def test_a_function_and_a_class_in_the_working_directory_are_found(here: Path) -> None:
    assert isinstance(make_target(_config("make", size=3)), ClassificationTarget)
    assert make_target(_config("Mine", anything=1)).options == {"anything": 1}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("digit", r"target\.factory: must be .* \(did you mean digits\?\), but got 'digit'"),
        (
            "completely-else",
            r"must be digits, .*, regression, .*package\.module:callable",
        ),
        (":make", "must be digits"),
        ("my_job_target:", "must be digits"),
        ("no_such_module:make", r"there is no module 'no_such_module' .*start in the folder"),
        ("my_job_target.inner:make", "there is no module"),
        ("my_job_target:mak", r"my_job_target has no 'mak'; did you mean make\?"),
        ("my_job_target:SIZE", "must be callable, but is of type int"),
        ("my_job_target:NOTHING", "must be callable, but is of type NoneType"),
        ("my_job_target:plain_model", "must return an rl_compress.targets.Target, but .* Linear"),
        ("my_job_target:broken", "failed .ValueError: first line second line at .*target.py:26"),
        ("my_job_target:leaves", r"failed \(SystemExit: 3"),
    ],
)
def test_wrong_factories_are_explained(here: Path, factory: str, message: str) -> None:
    _fails(TargetConfig(factory=factory), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_dependency", "importing my_job_other failed .ModuleNotFoundError: .*'no_"),
        ("from torch import no_such_thing", "importing my_job_other failed .ImportError"),
        ("def make(:", "importing my_job_other failed .SyntaxError"),
        ("1 / 0", r"failed \(ZeroDivisionError: division by zero at .*my_job_other\.py:1"),
        ("import sys; sys.exit('usage')", "failed .SystemExit: usage"),
    ],
)
def test_an_error_within_the_module_is_told_from_a_missing_module(
    here: Path, text: str, message: str
) -> None:
    (here / "my_job_other.py").write_text(text)
    _fails(TargetConfig(factory="my_job_other:make"), message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_config("make", sise=3), r"target\.options\.sise: .* did you mean size\?; it takes"),
        (_config("make"), r"target\.options\.size: my_job_target:make needs it"),
        (_config("plain_model", size=1), r"target\.options\.size: .*it takes none"),
        (_config("positional", size=3), r"target\.options\.size"),
        (TargetConfig(factory="digits", options={"widht": 8}), "did you mean width"),
    ],
)
def test_wrong_options_are_named(here: Path, config: TargetConfig, message: str) -> None:
    _fails(config, message)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="factroy"):
        TargetConfig.model_validate({"factory": "digits", "factroy": 1})


class _Linear(ClassificationTarget):
    """Two inputs, three outputs."""

    def __init__(self, build: Any = lambda: nn.Linear(2, 3).train()) -> None:
        split = TensorDataset(torch.zeros(1, 2), torch.zeros(1))
        super().__init__(build, dict.fromkeys(("train", "calibration", "search", "test"), split))


def _with(path: Path | str | None) -> TargetConfig:
    return TargetConfig(factory="mine", weights=None if path is None else str(path))


def _state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)}


def test_the_model_is_in_evaluation_mode() -> None:
    assert not build_model(_Linear(), _with(None)).training


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_loaded(tmp_path: Path, suffix: str, nested: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(_state(), path)
    else:
        torch.save({"state_dict": _state(), "epoch": 3} if nested else _state(), path)
    model = build_model(_Linear(), _with(path))
    assert torch.equal(model.weight, _state()["weight"])
    assert torch.equal(model.bias, _state()["bias"])


def test_with_weights_the_target_is_not_asked_to_train(tmp_path: Path) -> None:
    class Trained(_Linear):
        def build(self) -> nn.Module:
            raise AssertionError("trained")

        def architecture(self) -> nn.Module:
            return nn.Linear(2, 3)

    save_file(_state(), tmp_path / "weights.safetensors")
    build_model(Trained(), _with(tmp_path / "weights.safetensors"))


def _bad_file(folder: Path, kind: str) -> Path:
    path = folder / ("weights.safetensors" if kind == "half" else "weights.pth")
    if kind == "half":
        save_file(_state(), path)
        path.write_bytes(path.read_bytes()[:-4])
    elif kind == "evil":
        path.write_bytes(pickle.dumps(_Evil(folder / "ran"), protocol=2))
    elif kind == "evil torch":
        torch.save({"weight": _Evil(folder / "ran")}, path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        torch.save(_state(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "numbers":
        torch.save({"weight": 1.0}, path)
    return path


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "there is no file"),
        ("half", "not a readable safetensors file"),
        ("evil", "not unpickled"),
        ("evil torch", "not unpickled"),
        ("text", "cannot be read"),
        ("cut", "target.weights"),
        ("list", "must hold a state dict"),
        ("numbers", "must hold a state dict"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = _bad_file(tmp_path, kind)
    with pytest.raises(TargetError, match=message) as caught:
        build_model(_Linear(), _with(path))
    assert str(caught.value).startswith(f"target.weights: {'there' if kind == 'none' else path}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = {"weight": torch.zeros(3, 5), **{f"other{i}": torch.zeros(1) for i in range(6)}}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(TargetError) as caught:
        build_model(_Linear(), _with(tmp_path / "weights.safetensors"))
    message = str(caught.value)
    assert "missing bias, unexpected other0" in message
    assert "and 4 more" in message


def test_a_mismatched_shape_is_named(tmp_path: Path) -> None:
    save_file({**_state(), "weight": torch.zeros(3, 5)}, tmp_path / "weights.safetensors")
    with pytest.raises(TargetError, match=r"weight is \(3, 5\), not \(3, 2\)"):
        build_model(_Linear(), _with(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_broken_weights_are_named(tmp_path: Path, value: float) -> None:
    state = _state()
    state["bias"][1] = value
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(TargetError, match=r"target\.weights: .*gives bias NaN or infinite"):
        build_model(_Linear(), _with(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 1 / 0, r"building the model of mine failed \(ZeroDivisionError"),
        (lambda: {"a": 1}, "building the model of mine failed .AttributeError"),
    ],
)
def test_a_model_that_cannot_be_built_is_explained(build: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        build_model(_Linear(build), _with(None))


def test_build_must_return_a_module() -> None:
    class Wrong(_Linear):
        def build(self) -> Any:
            return "a path"

    with pytest.raises(TargetError, match=r"must return a torch\.nn\.Module, but returned str"):
        build_model(Wrong(), _with(None))


def test_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(TargetError, match=r"_extra_state .* of type dict.*get_extra_state"):
        build_model(_Linear(lambda: Odd(2, 2)), _with(None))


@pytest.mark.parametrize(
    "build", [lambda: nn.Sequential(nn.LazyLinear(3)), lambda: nn.Linear(2, 2, device="meta")]
)
def test_weights_without_values_are_refused(build: Any) -> None:
    with pytest.raises(TargetError, match=r"weight .* has no values yet"):
        build_model(_Linear(build), _with(None))
