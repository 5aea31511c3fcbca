from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.given_data import splits_of

TRAIN = (torch.arange(100.0)[:, None], torch.arange(100) % 4)
TEST = (torch.arange(100.0, 120.0)[:, None], torch.arange(20) % 4)


class _Items(Dataset[Any]):
    """No tensors behind it, and noise on every sample as it is read."""

    def __init__(self, count: int, *, first: int = 0) -> None:
        self._values = range(first, first + count)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        noise = random.random() / 8 + np.random.rand() / 8 + float(torch.rand(())) / 8
        return torch.tensor([self._values[index] + noise]), self._values[index] % 4


class _Stream(IterableDataset[Any]):
    def __init__(self, count: int = 100) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return iter([_Items(self._count)[index] for index in range(self._count)])


def _values(dataset: Any) -> list[int]:
    return [int(dataset[index][0]) for index in range(len(dataset))]


@pytest.mark.parametrize("train", [TRAIN, TensorDataset(*TRAIN), _Items(100)])
def test_what_lacks_is_taken_from_train_and_never_from_test(train: Any) -> None:
    splits, batch_size, note = splits_of({"train": train, "test": TEST})

    assert [len(splits[name]) for name in ("train", "calibration", "search", "test")] == [  # type: ignore[arg-type]
        *(70, 10, 20, 20)
    ]
    taken = [
        value for name in ("train", "calibration", "search") for value in _values(splits[name])
    ]
    assert sorted(taken) == list(range(100))
    assert batch_size == 256
    assert note.startswith("taken from train: calibration (10 samples) and search (20 samples)")


@pytest.mark.parametrize("train", [TRAIN, _Items(100)])
def test_the_same_is_taken_each_time_whatever_was_drawn_before(train: Any) -> None:
    def taken() -> list[Tensor]:
        splits, _, _ = splits_of({"train": train, "test": TEST})
        return [splits[name].tensors[0] for name in ("calibration", "search")]  # type: ignore[attr-defined]

    first = taken()
    torch.rand(3), np.random.rand(3), random.random()
    assert all(torch.equal(one, other) for one, other in zip(first, taken(), strict=True))


def test_equal_samples_of_train_are_in_one_split_only() -> None:
    twice = tuple(torch.cat([tensor, tensor]) for tensor in TRAIN)
    splits, _, _ = splits_of({"train": twice, "test": TEST})
    taken = [
        value for name in ("train", "calibration", "search") for value in _values(splits[name])
    ]
    assert sorted(taken) == list(range(100))


def test_only_what_lacks_is_taken() -> None:
    given = (torch.arange(200.0, 230.0)[:, None], torch.zeros(30, dtype=torch.long))
    splits, _, note = splits_of({"train": TRAIN, "search": given, "test": TEST})
    assert _values(splits["search"]) == list(range(200, 230))
    assert "calibration (10 samples);" in note
    assert "search" not in note.partition(";")[0]
    whole = {"train": TRAIN, "calibration": TEST, "search": given, "test": TEST}
    assert splits_of(whole)[2] == ""


def test_loaders_give_data_and_batch_size() -> None:
    data = {
        "train": DataLoader(TensorDataset(*TRAIN), batch_size=8, shuffle=True),
        "test": DataLoader(Subset(TensorDataset(*TEST), range(5)), batch_size=64),
    }
    splits, batch_size, _ = splits_of(data)
    assert batch_size == 64
    assert _values(splits["test"]) == [100, 101, 102, 103, 104]


def test_arrays_and_tensors_with_gradients_are_taken_as_they_are() -> None:
    arrays = (np.arange(5, dtype=np.float32)[:, None], np.arange(5))
    leaf = (torch.arange(200.0, 210.0)[:, None].requires_grad_(), torch.zeros(10))
    splits, _, _ = splits_of({"train": TRAIN, "calibration": arrays, "search": leaf, "test": TEST})
    assert _values(splits["calibration"]) == [0, 1, 2, 3, 4]
    assert not splits["search"].tensors[0].requires_grad  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([TRAIN, TEST], "data: must be a dict .* but got list of length 2"),
        ({"train": TRAIN}, r"split\(s\) test missing; give train and test"),
        ({"test": TEST, "search": TRAIN}, r"split\(s\) train missing"),
        ({"train": TRAIN, "val": TRAIN, "test": TEST}, r"unknown split\(s\) val; there are train"),
        ({"train": TRAIN[0], "test": TEST}, r"data\['train'\]: has no labels"),
        ({"train": TensorDataset(TRAIN[0]), "test": TEST}, r"'train'\]: has no labels"),
        ({"train": TRAIN, "test": (TEST[0], TEST[1][:3])}, "20 inputs and 3 labels"),
        ({"train": TRAIN, "test": ("a", "b")}, r"'test'\]: a pair must be of two tensors"),
        ({"train": {"x": TRAIN[0]}, "test": TEST}, r"'train'\]: has no labels; add them under"),
        ({"train": (*TRAIN, TRAIN[1][:3]), "test": TEST}, "100 inputs and 3 labels"),
        ({"train": 3, "test": TEST}, "map-style Dataset.* but got int"),
        ({"train": [("text", 1)] * 40, "test": TEST}, "inputs must be tensors.* type str"),
        ({"train": _Items(2), "test": TEST}, "2 samples are too few"),
        ({"train": _Stream(0), "test": TEST}, r"data\['train'\]: it is empty"),
        (
            {"train": TRAIN, "search": [(torch.zeros(n), 0) for n in (1, 2, 3)], "test": TEST},
            r"data\['search'\]: cannot be read into tensors .* of one shape",
        ),
    ],
)
def test_data_that_cannot_be_used_is_refused(data: Any, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        splits_of(data)
