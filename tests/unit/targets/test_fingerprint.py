from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.fingerprint import fingerprint_of_job, fingerprint_of_target
from rl_compress.targets.target import SPLITS, ClassificationTarget

CONFIG = TargetConfig(factory="nowhere:target")
MODEL = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()


class Lazy(Dataset[Any]):
    """Samples that are made as they are read, with noise as augmentations add it."""

    def __init__(self, size: int, shift: float = 0.0) -> None:
        self._size, self._shift, self.read = size, shift, 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return torch.full((3,), index + self._shift) + torch.randn(3), index % 2


def _tensors(shift: float = 0.0) -> dict[str, Dataset[Any]]:
    inputs = torch.arange(12.0).reshape(4, 3)
    labels = torch.zeros(4, dtype=torch.long)
    splits: dict[str, Dataset[Any]] = {name: TensorDataset(inputs, labels) for name in SPLITS}
    splits["test"] = TensorDataset(inputs + shift, labels)
    return splits


def _lazy(size: int = 5, shift: float = 0.0) -> dict[str, Dataset[Any]]:
    return {name: Lazy(size, shift) for name in SPLITS}


def _fingerprint(
    model: nn.Module = MODEL, splits: dict[str, Dataset[Any]] | None = None
) -> dict[str, str]:
    target = ClassificationTarget(lambda: model, splits or _tensors())
    return fingerprint_of_target(CONFIG, target, model)


def test_equal_inputs_have_the_same_fingerprint() -> None:
    assert _fingerprint() == _fingerprint(copy.deepcopy(MODEL))


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked"])
def test_any_weight_or_statistic_changes_the_models(name: str) -> None:
    other = copy.deepcopy(MODEL)
    other.state_dict()[name].view(-1)[0] += 1
    now = _fingerprint(other)
    assert now["model"] != _fingerprint()["model"]
    assert now["data"] == _fingerprint()["data"]


def test_a_module_without_state_changes_the_models() -> None:
    one, other = (nn.Sequential(nn.Linear(3, 2), kind()) for kind in (nn.ReLU, nn.Tanh))
    other.load_state_dict(one.state_dict())
    assert _fingerprint(one)["model"] != _fingerprint(other)["model"]


def test_a_sample_of_any_split_changes_the_datas() -> None:
    now = _fingerprint(splits=_tensors(shift=1e-3))
    assert now["data"] != _fingerprint()["data"]
    assert now["model"] == _fingerprint()["model"]


def test_data_that_is_not_in_memory_is_sampled() -> None:
    splits = _lazy(size=30_000)
    found = _fingerprint(splits=splits)
    assert splits["train"].read == 1000  # type: ignore[attr-defined]
    assert found == _fingerprint(splits=_lazy(size=30_000))
    assert found["data"] != _fingerprint(splits=_lazy(size=30_001))["data"]
    assert found["data"] != _fingerprint(splits=_lazy(size=30_000, shift=0.5))["data"]


def test_the_callers_random_numbers_stay_what_they_are() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    _fingerprint(splits=_lazy())
    assert torch.equal(torch.rand(2), expected)


def test_the_job_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = fingerprint_of_job("name: a\n")
    assert one == fingerprint_of_job("name: a\n")
    assert one["job"] != fingerprint_of_job("name: b\n")["job"]
    monkeypatch.setattr("rl_compress.targets.fingerprint.__version__", "99")
    assert fingerprint_of_job("name: a\n")["version"] == "99"
