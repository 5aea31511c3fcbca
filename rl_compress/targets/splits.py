"""Disjoint splits: how to make them, and how to make sure of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.target import SPLITS, Batch, Target

_CHECKED_SAMPLES = 1000
"""Samples per split that are looked at where the data is not a tensor in memory."""


def disjoint_splits(
    inputs: Tensor, labels: Tensor, sizes: Mapping[str, float], *, seed: int
) -> dict[str, TensorDataset]:
    """Cut labelled samples into disjoint splits; of equal samples only the first is used.

    Args:
        inputs: Samples, shape ``(num_samples, …)``.
        labels: Their labels, shape ``(num_samples, …)``.
        sizes: For each split its size: a number of samples, or a fraction below 1.
        seed: Of the shuffle.

    Raises:
        TargetError: The sizes exceed the number of distinct samples.
    """
    first = {digest: index for index, digest in reversed(list(enumerate(_digests(inputs))))}
    distinct = torch.tensor(sorted(first.values()))
    order = distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))]
    counts = {name: int(s if s >= 1 else s * len(order)) for name, s in sizes.items()}
    if sum(counts.values()) > len(order):
        raise TargetError(
            f"target: splits of {counts} samples need more than the {len(order)} distinct ones"
        )
    splits, start = {}, 0
    for name, count in counts.items():
        chosen = order[start : start + count]
        splits[name] = TensorDataset(inputs[chosen], labels[chosen])
        start += count
    return splits


def check_splits(target: Target) -> None:
    """Make sure that a target's splits can be used and trusted.

    Raises:
        TargetError: A split is missing or empty, holds NaN or infinite inputs, or shares a sample
            with another one.
    """
    datasets: dict[str, Dataset[Batch]] = {}
    for name in SPLITS:
        try:
            datasets[name] = target.split(name)
        except TargetError:
            raise
        except Exception as error:
            raise TargetError(
                f"target: split {name!r} cannot be read ({type(error).__name__}: {error})"
            ) from error
        if len(datasets[name]) == 0:  # type: ignore[arg-type]
            raise TargetError(f"target: split {name!r} is empty; every split needs samples")
        for inputs in _blocks(datasets[name]):
            if inputs.is_floating_point() and not inputs.isfinite().all():
                raise TargetError(
                    f"target: split {name!r} holds NaN or infinite inputs; clean the data"
                )
    keys = {name: _keys(dataset) for name, dataset in datasets.items()}
    for one, other in combinations(SPLITS, 2):
        if common := keys[one] & keys[other]:
            raise TargetError(
                f"target: splits {one!r} and {other!r} share {len(common)} sample(s); they must "
                f"be disjoint (rl_compress.targets.disjoint_splits makes such splits)"
            )


def _blocks(dataset: Dataset[Batch]) -> Iterator[Tensor]:
    if isinstance(dataset, TensorDataset):
        yield dataset.tensors[0]
        return
    for index in _looked_at(dataset):
        yield dataset[index][0]


def _keys(dataset: Dataset[Batch]) -> set[tuple[int, bytes | int]]:
    """Return what identifies the samples of a dataset."""
    if isinstance(dataset, Subset):
        return {(id(dataset.dataset), int(index)) for index in dataset.indices}
    if isinstance(dataset, TensorDataset):
        return {(0, digest) for digest in _digests(dataset.tensors[0])}
    return {(0, _digest(dataset[index][0].numpy())) for index in _looked_at(dataset)}


def _looked_at(dataset: Dataset[Batch]) -> list[int]:
    size = len(dataset)  # type: ignore[arg-type]
    return np.unique(np.linspace(0, size - 1, min(size, _CHECKED_SAMPLES)).astype(int)).tolist()


def _digests(inputs: Tensor) -> list[bytes]:
    return [_digest(sample) for sample in inputs.contiguous().numpy()]


def _digest(sample: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=16).digest()
