from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.batches import NestedDataset
from rl_compress.targets.splits import check_splits, digests, disjoint_splits
from rl_compress.targets.target import SPLITS, Target

_SIZES = {"train": 0.4, "calibration": 0.2, "search": 0.2, "test": 0.2}


class _Target(Target):
    def __init__(self, splits: dict[str, Any]) -> None:
        self.splits = splits

    def build(self) -> nn.Module:
        return nn.Identity()

    def split(self, name: str) -> Any:
        return self.splits[name]

    def score(self, model: nn.Module, split: str) -> float:
        return 0.0


class _Items(Dataset):
    """A map-style dataset without a tensor behind it."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def _items(first: int, count: int) -> _Items:
    return _Items([(torch.tensor([float(i)]), 0) for i in range(first, first + count)])


def _sound() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(disjoint_splits(torch.randn(50, 3), torch.arange(50) % 2, _SIZES, seed=0))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=30, max_size=120), st.integers(0, 5))
def test_no_sample_is_in_two_splits_or_twice_in_one(values: list[int], seed: int) -> None:
    inputs = torch.tensor(values, dtype=torch.float32)[:, None]
    if len(set(values)) < 10:
        return
    splits = disjoint_splits(inputs, torch.tensor(values) % 3, _SIZES, seed=seed)
    found = [float(x) for split in splits.values() for x in split.tensors[0]]
    assert len(found) == len(set(found))
    assert set(found) <= set(map(float, values))
    assert all(int(x) % 3 == y for s in splits.values() for x, y in zip(*s.tensors, strict=True))


def test_sizes_may_be_counts_fractions_and_the_rest() -> None:
    splits = disjoint_splits(
        torch.arange(100.0)[:, None],
        torch.zeros(100),
        {"search": 7, "train": None, "test": 0.25},
        seed=0,
    )
    assert {name: len(split) for name, split in splits.items()} == {
        "search": 7,
        "train": 68,
        "test": 25,
    }


def test_classes_are_stratified() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 50)
    splits = disjoint_splits(torch.arange(200.0)[:, None], labels, _SIZES, seed=3)
    for name, split in splits.items():
        counts = Counter(split.tensors[1].tolist())
        for label, share in ((0, 0.5), (1, 0.25), (2, 0.25)):
            assert abs(counts[label] - share * 200 * _SIZES[name]) <= 2, (name, counts)


def test_the_seed_decides() -> None:
    inputs, labels = torch.arange(50.0)[:, None], torch.zeros(50)
    one, same, other = (
        disjoint_splits(inputs, labels, _SIZES, seed=s)["test"].tensors[0] for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("sizes", [{"train": 40, "test": 20}, {"train": 50, "test": None}])
def test_sizes_beyond_the_distinct_samples_are_refused(sizes: dict[str, Any]) -> None:
    inputs = torch.arange(50.0)[:, None].repeat(2, 1)
    with pytest.raises(TargetError, match="50 distinct"):
        disjoint_splits(inputs, torch.zeros(100), sizes, seed=0)


def test_a_split_that_would_be_empty_is_refused() -> None:
    with pytest.raises(TargetError, match="every split needs samples"):
        disjoint_splits(torch.arange(5.0)[:, None], torch.zeros(5), {"test": 0.1}, seed=0)


def test_labels_must_match() -> None:
    with pytest.raises(TargetError, match="5 inputs and 4 labels"):
        disjoint_splits(torch.zeros(5, 1), torch.zeros(4), {"test": 0.5}, seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_digests_tell_samples_apart_in_any_type(dtype: torch.dtype) -> None:
    found = digests(torch.tensor([[0, 1], [1, 0], [0, 1]], dtype=dtype))
    assert found[0] == found[2] != found[1]


def test_sound_splits_pass() -> None:
    check_splits(_Target(_sound()))


@pytest.mark.parametrize("name", SPLITS)
def test_a_missing_split_is_named(name: str) -> None:
    splits = _sound()
    del splits[name]
    with pytest.raises(TargetError, match=f"split '{name}' cannot be read.*KeyError"):
        check_splits(_Target(splits))


@pytest.mark.parametrize(
    "empty", [TensorDataset(torch.zeros(0, 3), torch.zeros(0)), _Items([]), Subset(_Items([1]), [])]
)
def test_an_empty_split_is_named(empty: Any) -> None:
    with pytest.raises(TargetError, match="'search' is empty"):
        check_splits(_Target({**_sound(), "search": empty}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("lazy", [False, True])
def test_broken_inputs_are_found(value: float, lazy: bool) -> None:
    inputs = torch.randn(10, 3)
    inputs[7, 1] = value
    broken: Any = TensorDataset(inputs, torch.zeros(10))
    if lazy:
        broken = _Items([broken[i] for i in range(10)])
    with pytest.raises(TargetError, match="'calibration' holds NaN or infinite"):
        check_splits(_Target({**_sound(), "calibration": broken}))


@pytest.mark.parametrize(
    "unusable",
    [iter([1]), None],
    ids=["iterator", "none"],
)
def test_what_is_no_map_style_dataset_of_pairs_is_refused(unusable: Any) -> None:
    with pytest.raises(TargetError, match="'train' cannot be read as a map-style dataset"):
        check_splits(_Target({**_sound(), "train": unusable}))


@pytest.mark.parametrize(
    ("sample", "kind"), [(([1, 2], 0), "list"), (3, "int"), ({"text": "one"}, "dict")]
)
def test_inputs_must_be_tensors(sample: Any, kind: str) -> None:
    with pytest.raises(TargetError, match=f"'train' must hold .*type {kind}"):
        check_splits(_Target({**_sound(), "train": _Items([sample])}))


@pytest.mark.parametrize("lazy", [False, True])
def test_samples_of_several_inputs_are_the_same_where_all_of_them_are(lazy: bool) -> None:
    def split(first: int, shift: int) -> Any:
        numbers = torch.arange(first, first + 4)[:, None]
        data = NestedDataset({"x": numbers, "mask": numbers + shift, "labels": numbers[:, 0]})
        return _Items([data[index] for index in range(4)]) if lazy else data

    splits = {name: split(10 * number, 0) for number, name in enumerate(SPLITS)}
    splits["test"] = split(10 * SPLITS.index("search"), 1)
    check_splits(_Target(splits))
    splits["test"] = split(10 * SPLITS.index("search") + 3, 0)
    with pytest.raises(TargetError, match=r"'search' and 'test' share 1 sample"):
        check_splits(_Target(splits))


def test_a_sample_in_two_tensor_datasets_is_found() -> None:
    splits = _sound()
    stolen = splits["search"].tensors[0][:2]
    inputs = torch.cat([splits["test"].tensors[0], stolen])
    splits["test"] = TensorDataset(inputs, torch.zeros(len(inputs)))
    with pytest.raises(TargetError, match=r"'search' and 'test' share 2 sample.*disjoint"):
        check_splits(_Target(splits))


def test_a_sample_in_two_other_datasets_is_found() -> None:
    splits = {name: _items(100 * i, 20) for i, name in enumerate(SPLITS)}
    check_splits(_Target(splits))
    splits["train"] = _items(90, 20)
    with pytest.raises(TargetError, match="'train' and 'calibration' share 10"):
        check_splits(_Target(splits))


class _Augmented(Dataset):
    """Another random image at every look, so that only indices tell samples apart."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(4), 0


def test_subsets_of_one_dataset_are_compared_by_index() -> None:
    base = _Augmented()
    apart = {name: Subset(base, range(100 * i, 100 * i + 100)) for i, name in enumerate(SPLITS)}
    check_splits(_Target(apart))
    nested = Subset(Subset(base, range(200, 400)), [5, 6])
    with pytest.raises(TargetError, match="'train' and 'search' share 2"):
        check_splits(_Target({**apart, "train": nested}))


def test_subsets_of_tensors_are_compared_by_value_too() -> None:
    inputs = torch.randn(8, 2)
    inputs[6] = inputs[0]
    base = TensorDataset(inputs, torch.zeros(8))
    splits = {name: Subset(base, [2 * i, 2 * i + 1]) for i, name in enumerate(SPLITS)}
    with pytest.raises(TargetError, match="'train' and 'test' share 1"):
        check_splits(_Target(splits))


def test_sixty_thousand_images_take_seconds() -> None:
    quarters = torch.rand(60_000, 28 * 28).chunk(4)
    splits = {n: TensorDataset(q, q[:, 0]) for n, q in zip(SPLITS, quarters, strict=True)}
    start = time.process_time()
    check_splits(_Target(splits))
    assert time.process_time() - start < 10
