"""The four splits of a target, from the data that a program holds in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.few import kept_random_state
from rl_compress.targets.splits import disjoint_splits, rooted
from rl_compress.targets.target import SPLITS
from rl_compress.targets.user_code import summary

_NEEDED = ("train", "test")

_TAKEN = {"calibration": (10, 1000), "search": (5, 5000)}
"""Splits that are taken from ``train`` where they are not given: one sample in so many, at most."""

_IN_WORKERS = tuple(_TAKEN)
"""Splits that are read into memory, whatever they are, for they are read in every evaluation."""

_BATCH_SIZE = 256


def splits_of(data: Mapping[str, Any]) -> tuple[dict[str, Dataset[Any]], int, str]:
    """Return all splits of the data given; what it lacks is taken from ``train``.

    Args:
        data: By split a map-style dataset of ``(input, label)`` pairs, a pair of tensors ``(inputs,
            labels)`` or a DataLoader, whose dataset and batch size are used. ``train`` and ``test``
            are needed. Calibration and search split are read into memory.

    Returns:
        The splits, samples per batch, and what was taken from ``train``, in a line, or nothing.

    Raises:
        TargetError: A split is missing, is no such data or has no labels.
    """
    if not isinstance(data, Mapping):
        raise TargetError(
            f'data: must be a dict such as {{"train": …, "test": …}}, but got {_kind(data)}'
        )
    if unknown := [str(name) for name in data if name not in SPLITS]:
        raise TargetError(
            f"data: unknown split(s) {', '.join(unknown)}; there are {', '.join(SPLITS)}"
        )
    if missing := [name for name in _NEEDED if data.get(name) is None]:
        raise TargetError(
            f"data: split(s) {', '.join(missing)} missing; give train and test, and best "
            f"calibration and search too, which are else taken from train"
        )
    given = {name: data[name] for name in SPLITS if data.get(name) is not None}
    sizes = {name: one.batch_size for name, one in given.items() if isinstance(one, DataLoader)}
    # Those of training are small for its own reasons.
    batch_size = next((size for name in reversed(SPLITS) if (size := sizes.get(name))), _BATCH_SIZE)
    with fixed_randomness():
        splits = {name: _dataset(name, value) for name, value in given.items()}
        lacking = {name: _TAKEN[name] for name in _TAKEN if name not in splits}
        splits |= _taken(splits["train"], lacking) if lacking else {}
        for name in _IN_WORKERS:
            splits[name] = _in_memory(name, splits[name])
    taken = [f"{name} ({_length(splits[name])} samples)" for name in lacking]
    note = f"taken from train: {' and '.join(taken)}; give them in data to choose them yourself"
    return splits, batch_size, note if taken else ""


@contextmanager
def fixed_randomness() -> Iterator[None]:
    """Let datasets that draw random numbers draw the same in each run."""
    with kept_random_state():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield


def _dataset(name: str, value: Any) -> Dataset[Any]:
    """Return a map-style dataset with labels; tensors are brought to the CPU."""
    if isinstance(value, DataLoader):
        value = value.dataset
    if isinstance(value, tuple | list) and len(value) == 2:
        value = _paired(name, *value)
    if isinstance(value, IterableDataset) or not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ):
        raise TargetError(
            f"data[{name!r}]: must be a map-style Dataset, a pair of tensors (inputs, labels) or a "
            f"DataLoader of such a dataset, but got {_kind(value)}"
        )
    if isinstance(value, Tensor | np.ndarray):
        raise TargetError(f"data[{name!r}]: has no labels; give a pair (inputs, labels)")
    if isinstance(value, TensorDataset):
        value = TensorDataset(*(tensor.detach().cpu() for tensor in value.tensors))
    if len(value):
        try:
            sample = value[0]
        except Exception as error:
            raise TargetError(f"data[{name!r}]: cannot be read ({summary(error)})") from error
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise TargetError(
                f"data[{name!r}]: has no labels, or more than that: each sample must be a pair "
                f"(input, label), but the first is {_kind(sample)}"
            )
        if not isinstance(sample[0], Tensor):
            raise TargetError(
                f"data[{name!r}]: inputs must be tensors, but the first is of type "
                f"{type(sample[0]).__name__}; convert them in the dataset's transform"
            )
    return value


def _paired(name: str, inputs: Any, labels: Any) -> TensorDataset:
    try:
        inputs, labels = torch.as_tensor(inputs), torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"data[{name!r}]: a pair must be of two tensors ({error})") from None
    if len(inputs) != len(labels):
        raise TargetError(
            f"data[{name!r}]: every sample needs one label, but there are {len(inputs)} inputs and "
            f"{len(labels)} labels"
        )
    return TensorDataset(inputs, labels)


def _taken(train: Any, lacking: Mapping[str, tuple[int, int]]) -> dict[str, Dataset[Any]]:
    """Cut disjoint splits off the training split; return them, with what is left of it."""
    total = len(train)
    sizes = {name: max(1, min(most, total // part)) for name, (part, most) in lacking.items()}
    base, indices = rooted(train, np.arange(total))
    if isinstance(base, TensorDataset):
        inputs, labels = _tensors(base, indices)
        return dict(disjoint_splits(inputs, labels, {**sizes, "train": None}, seed=0))
    if total <= sum(sizes.values()):
        raise TargetError(f"data['train']: {total} samples are too few to take others from")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist()
    cut: dict[str, Dataset[Any]] = {}
    for name, size in sizes.items():
        cut[name], order = Subset(train, order[:size]), order[size:]
    return {**cut, "train": Subset(train, order)}


def _in_memory(name: str, dataset: Any) -> TensorDataset:
    """Read a dataset into tensors, where they are not in memory already."""
    base, indices = rooted(dataset, np.arange(len(dataset)))
    if isinstance(base, TensorDataset):
        return dataset if base is dataset else TensorDataset(*_tensors(base, indices))
    try:
        batches = [tuple(batch) for batch in DataLoader(dataset, batch_size=_BATCH_SIZE)]
        return TensorDataset(*(torch.cat(parts).cpu() for parts in zip(*batches, strict=True)))
    except Exception as error:
        raise TargetError(
            f"data[{name!r}]: cannot be read into tensors ({summary(error)}); all its inputs must "
            f"be of one shape"
        ) from error


def _tensors(base: TensorDataset, indices: np.ndarray) -> list[Tensor]:
    return [tensor[torch.from_numpy(indices)].detach().cpu() for tensor in base.tensors]


def _length(dataset: Any) -> int:
    return len(dataset)


def _kind(value: Any) -> str:
    """Name a value's type, and its length where that tells something."""
    size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"
