"""Weights in the files that training scripts write."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rl_compress.errors import TargetError
from rl_compress.targets.checkpoint import load_weights, with_versions


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _assert_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def _optimizer() -> dict[str, Any]:
    net = _net()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(4, 1, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": _optimizer(), "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": _optimizer()},
        lambda state: {"state_dict": state, "loss": torch.tensor(0.5), "best": 1.0},
        lambda state: {"net": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"ema": {"module": state, "decay": 0.99}},
        lambda state: {"epoch": 3, **state},
        lambda state: _prefixed(state, "module."),
        lambda state: _prefixed(state, "_orig_mod."),
        lambda state: {"model": _prefixed(state, "module._orig_mod.")},
        lambda state: {"state_dict": _prefixed(state, "model."), "callbacks": {}},
        lambda state: {name.replace("0.", "0._orig_mod.", 1): t for name, t in state.items()},
        lambda state: {name: t for name, t in state.items() if "num_batches" not in name},
    ],
    ids=[
        *("bare", "model", "model_state_dict", "state_dict", "net", "ema", "with a number"),
        *("parallel", "compiled", "both", "lightning", "compiled part", "old norm"),
    ],
)
def test_weights_are_found_where_scripts_put_them(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    trained, model = _net(), _net()

    load_weights(model, _saved(tmp_path / "w.pt", wrap(trained.state_dict())))

    _assert_equal(model, trained)


def test_average_of_torch_is_taken(tmp_path: Path) -> None:
    trained, model = _net(), _net()
    load_weights(model, _saved(tmp_path / "w.pt", AveragedModel(trained).state_dict()))
    _assert_equal(model, trained)


def test_safetensors_with_a_prefix_is_taken(tmp_path: Path) -> None:
    trained, model = _net(), _net()
    save_file(_prefixed(trained.state_dict(), "module."), tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    _assert_equal(model, trained)


def test_of_several_that_fit_the_key_decides(tmp_path: Path) -> None:
    one, other, model = _net(), _net(), _net()
    path = _saved(
        tmp_path / "w.pt", {"model": one.state_dict(), "ema": {"state": other.state_dict()}}
    )

    with pytest.raises(TargetError, match=r"target\.weights_key which: model or ema\.state"):
        load_weights(model, path)
    load_weights(model, path, "ema.state")
    _assert_equal(model, other)
    load_weights(model, path, "model")
    _assert_equal(model, one)
    with pytest.raises(TargetError, match=r"target\.weights_key: .*'emma'.*model, ema"):
        load_weights(model, path, "emma")


def test_only_the_entry_that_fits_counts(tmp_path: Path) -> None:
    trained, model = _net(), _net()
    content = {"generator": trained.state_dict(), "critic": nn.Linear(3, 3).state_dict()}
    load_weights(model, _saved(tmp_path / "w.pt", content))
    _assert_equal(model, trained)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": nn.Linear(2, 2).state_dict()}, r"\(model\) does not fit .*missing 0\.weight"),
        ({"weights": [1.0, 2.0]}, r"must hold a state dict.*target\.weights_key"),
        (torch.zeros(3), "must hold a state dict"),
        ({"model": _prefixed(_net().state_dict(), "a.") | {"b": torch.zeros(1)}}, "and 14 more"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        load_weights(_net(), _saved(tmp_path / "w.pt", content))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("kept", ["embedding.weight", "head.weight"])
def test_tied_tensor_may_be_there_once(tmp_path: Path, kept: str) -> None:
    trained, model = _Tied(), _Tied()
    load_weights(model, _saved(tmp_path / "w.pt", {kept: trained.embedding.weight.detach()}))
    _assert_equal(model, trained)


class _Versioned(nn.Linear):
    """Loads like torchvision's MNASNet, and translates like its vision transformer."""

    _version = 2

    def _load_from_state_dict(  # type: ignore[override]
        self, state: dict[str, Any], prefix: str, local: dict[str, Any], *rest: Any
    ) -> None:
        version = local.get("version")
        if f"{prefix}old" in state and version in (None, 1):
            state[f"{prefix}weight"] = state.pop(f"{prefix}old")
        elif version != 2:
            raise ValueError(f"version should be 1 or 2 instead of {version}")
        super()._load_from_state_dict(state, prefix, local, *rest)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_module_that_looks_at_its_version_loads(tmp_path: Path, name: str) -> None:
    trained, model = nn.Sequential(_Versioned(3, 2)), nn.Sequential(_Versioned(3, 2))
    state, path = trained.state_dict(), tmp_path / name
    if path.suffix == ".pt":
        torch.save({"model": nn.DataParallel(trained).state_dict()}, path)
    else:
        save_file(state, path)

    load_weights(model, path)

    _assert_equal(model, trained)


def test_module_translates_what_an_earlier_version_of_it_saved(tmp_path: Path) -> None:
    trained, model = _Versioned(3, 2), _Versioned(3, 2)
    state = {"old": trained.weight.detach(), "bias": trained.bias.detach()}
    load_weights(model, _saved(tmp_path / "w.pt", state))
    _assert_equal(model, trained)


def test_versions_of_a_state_are_kept() -> None:
    model = _Versioned(3, 2)
    told = OrderedDict(model.state_dict())
    assert with_versions(told, model)._metadata[""] == {"version": 2}  # type: ignore[attr-defined]
    told._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    assert with_versions(told, model)._metadata[""] == {"version": 1}  # type: ignore[attr-defined]
