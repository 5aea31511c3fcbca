from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.few import with_few_samples
from rl_compress.targets.target import Target


class _Pairs(Dataset):
    """Samples that are no tensors in memory; each is read once, and some cannot be."""

    words = ("a", "b")

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return torch.tensor([float(index)]), index % 2

    def __getitems__(self, indices: list[int]) -> Any:
        return [self[index] for index in indices]


class _Keeping(Target):
    """Keeps the data of a split once it was read, and fails where it is told to."""

    def __init__(self, data: Dataset, fails: str = "") -> None:
        self.kept: dict[str, Dataset] = {}
        self._data, self._fails = data, fails

    def build(self) -> nn.Module:
        return nn.Identity()

    def split(self, name: str) -> Dataset:
        return self._data

    def score(self, model: nn.Module, split: str) -> float:
        if self._fails == "score":
            raise ZeroDivisionError("no samples")
        data = self.kept.setdefault(split, self.split(split))
        return float(len(data))  # type: ignore[arg-type]

    def augment(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, 7)


def test_splits_have_the_samples_asked_for_evenly_spread() -> None:
    data = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))
    few = with_few_samples(_Keeping(Subset(data, range(10, 20))), {"search": 4})
    (batch,) = few.batches("search")
    assert batch[1].tolist() == [10, 13, 16, 19]


def test_what_the_target_keeps_is_its_own() -> None:
    target = _Keeping(TensorDataset(torch.zeros(9, 1), torch.zeros(9)))
    assert with_few_samples(target, {"search": 4}).score(nn.Identity(), "search") == 4
    assert target.score(nn.Identity(), "search") == 9


def test_samples_are_read_once_and_the_rest_is_the_datasets() -> None:
    pairs = _Pairs()
    few = with_few_samples(_Keeping(pairs), {"train": 3})
    for _ in range(2):
        ((inputs, labels),) = few.batches("train")
        assert inputs.flatten().tolist() == [0, 4, 9]
        assert labels.tolist() == [0, 0, 1]
    assert pairs.read == [0, 4, 9]
    assert few.split("train").words == ("a", "b")  # type: ignore[attr-defined]


def test_what_is_raised_names_the_method_and_the_place() -> None:
    few = with_few_samples(_Keeping(_Pairs(), "score"), {"train": 3})
    with pytest.raises(TargetError, match=r"score\(\) of _Keeping .*no samples at .*test_few.py:"):
        few.score(nn.Identity(), "train")
    with pytest.raises(TargetError, match=r"augment\(\) of _Keeping failed \(RuntimeError: shape"):
        few.augment(torch.zeros(3, 2))
