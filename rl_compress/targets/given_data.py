"""The four splits of a target, from the data that a program holds in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.batches import batch_of, collation, in_memory, paired
from rl_compress.targets.datasets import BATCH_SIZE, as_dataset, kind, read
from rl_compress.targets.few import kept_random_state
from rl_compress.targets.splits import disjoint_splits, rooted
from rl_compress.targets.target import SPLITS

_NEEDED = ("train", "test")

_TAKEN = {"calibration": (10, 1000), "search": (5, 5000)}
"""Splits that are taken from ``train`` where they are not given: one sample in so many, at most."""

_IN_WORKERS = tuple(_TAKEN)
"""Splits that are read into memory, whatever they are, for they are read in every evaluation."""


def splits_of(data: Mapping[str, Any]) -> tuple[dict[str, Dataset[Any]], int, str]:
    """Return all splits of the data given; what it lacks is taken from ``train``.

    Args:
        data: By split what :func:`as_dataset` takes; the batch size is that of the loaders.
            ``train`` and ``test`` are needed. Calibration and search split are read into memory.

    Returns:
        The splits, samples per batch, and what was taken from ``train``, in a line, or nothing.

    Raises:
        TargetError: A split is missing, is no such data or has no labels.
    """
    if not isinstance(data, Mapping):
        raise TargetError(
            f'data: must be a dict such as {{"train": …, "test": …}}, but got {kind(data)}'
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
    batch_size = next((size for name in reversed(SPLITS) if (size := sizes.get(name))), BATCH_SIZE)
    with fixed_randomness():
        splits = {name: as_dataset(value, f"data[{name!r}]") for name, value in given.items()}
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


def _taken(train: Any, lacking: Mapping[str, tuple[int, int]]) -> dict[str, Dataset[Any]]:
    """Cut disjoint splits off the training split; return them, with what is left of it."""
    total = len(train)
    sizes = {name: max(1, min(most, total // part)) for name, (part, most) in lacking.items()}
    base, indices = rooted(train, np.arange(total))
    if isinstance(base, TensorDataset):
        inputs, labels = paired(batch_of(base, _tensors(base, indices)))
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
        if base is dataset:
            return base
        return in_memory(batch_of(base, _tensors(base, indices)))
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, collate_fn=collation(dataset))
    return read(loader, f"data[{name!r}]")


def _tensors(base: TensorDataset, indices: np.ndarray) -> list[Tensor]:
    return [tensor[torch.from_numpy(indices)].detach().cpu() for tensor in base.tensors]


def _length(dataset: Any) -> int:
    return len(dataset)
