"""Disjoint splits: how to make them, and how to make sure of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.model.nested import mapped, num_samples, tensors_in
from rl_compress.targets.batches import batch_of, collation, in_memory
from rl_compress.targets.target import SPLITS, Target
from rl_compress.targets.user_code import summary

_CHECKED_SAMPLES = 1000
"""Samples per split that are looked at where the data is not a tensor in memory."""


def disjoint_splits(
    inputs: Any, labels: Tensor, sizes: Mapping[str, float | None], *, seed: int
) -> dict[str, TensorDataset]:
    """Cut labelled samples into disjoint splits; of equal samples only the first is used.

    Integer class labels are stratified: every split has nearly the class frequencies of the whole.

    Args:
        inputs: Samples, shape ``(num_samples, …)``; a tuple or dictionary of several inputs.
        labels: Their labels, shape ``(num_samples, …)``.
        sizes: For each split its size: a number of samples, a fraction below 1 of the distinct
            samples, or None (for one split) for all that the others leave.
        seed: Of the shuffle.

    Raises:
        TargetError: Inputs and labels differ in number, a split would be empty, or the sizes
            exceed the number of distinct samples.
    """
    if num_samples(inputs) != len(labels):
        raise TargetError(
            f"target: every sample needs one label, but got {num_samples(inputs)} inputs and "
            f"{len(labels)} labels"
        )
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests(inputs)):
        first.setdefault(digest, index)
    distinct = torch.tensor(list(first.values()), dtype=torch.long)
    order = distinct[_shuffled(labels[distinct], torch.Generator().manual_seed(seed))]
    counts = _counts(sizes, len(order))
    splits, start = {}, 0
    for name, count in counts.items():
        chosen = order[start : start + count]
        splits[name] = in_memory((mapped(itemgetter(chosen), inputs), labels[chosen]))
        start += count
    return splits


def check_splits(target: Target) -> None:
    """Make sure that a target's splits can be used and trusted.

    Tensors in memory are looked at as a whole, subsets of one dataset are compared by index too,
    and of any other dataset up to 1000 samples are read.

    Raises:
        TargetError: A split is missing or empty, cannot be read, holds NaN or infinite inputs, or
            shares a sample with another one.
    """
    seen = {name: _look_at(target, name) for name in SPLITS}
    for one, other in combinations(SPLITS, 2):
        if common := seen[one].shared_with(seen[other]):
            raise TargetError(
                f"target: splits {one!r} and {other!r} share {common} sample(s), but must be "
                f"disjoint; remove them from one split, or let "
                f"rl_compress.targets.disjoint_splits make the splits"
            )


def digests(inputs: Any) -> list[bytes]:
    """Return a hash of each sample's bytes: equal samples, and only they, share it.

    Args:
        inputs: Samples, shape ``(num_samples, …)``, or a nest of such tensors.
    """
    if not isinstance(inputs, Tensor):
        return [b"".join(parts) for parts in zip(*map(digests, tensors_in(inputs)), strict=True)]
    if len(inputs) == 0:
        return []
    rows = inputs.detach().cpu().reshape(len(inputs), -1).contiguous().view(torch.uint8).numpy()
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


@dataclass(frozen=True, slots=True)
class _Samples:
    """What tells the samples of one split from those of others."""

    digests: frozenset[bytes]
    base: Dataset[Any]
    indices: frozenset[int]
    """Positions in ``base``, for subsets of it."""

    def shared_with(self, other: _Samples) -> int:
        """Count the samples known to be in both splits."""
        same_index = len(self.indices & other.indices) if self.base is other.base else 0
        return max(same_index, len(self.digests & other.digests))


def _look_at(target: Target, name: str) -> _Samples:
    """Read a split, checking it on the way."""
    try:
        dataset = target.split(name)
        size = len(dataset)  # type: ignore[arg-type]
        base, indices = rooted(dataset, np.arange(size))
        inputs = _inputs(target, name, base, indices) if size else []
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(
            f"target: split {name!r} cannot be read as a map-style dataset of (input, label) "
            f"({summary(error)})"
        ) from error
    if size == 0:
        raise TargetError(f"target: split {name!r} is empty; every split needs samples")
    found: list[bytes] = []
    for block in inputs:
        if any(t.is_floating_point() and not t.isfinite().all() for t in block):
            raise TargetError(
                f"target: split {name!r} holds NaN or infinite inputs; clean the data"
            )
        found += digests(block)
    is_subset = base is not dataset
    return _Samples(frozenset(found), base, frozenset(indices.tolist() if is_subset else ()))


def rooted(dataset: Dataset[Any], indices: np.ndarray) -> tuple[Dataset[Any], np.ndarray]:
    """Resolve subsets, also of subsets, to the dataset that they select from."""
    while isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices, dtype=np.int64)[indices]
        dataset = dataset.dataset
    return dataset, indices


def _inputs(
    target: Target, name: str, base: Dataset[Any], indices: np.ndarray
) -> list[list[Tensor]]:
    """Return the inputs of blocks of samples: of all in memory, or of some others one by one."""
    if isinstance(base, TensorDataset):
        chosen = torch.from_numpy(indices)
        return [target.input_tensors(batch_of(base, [tensor[chosen] for tensor in base.tensors]))]
    some = np.unique(
        np.linspace(0, len(indices) - 1, min(len(indices), _CHECKED_SAMPLES), dtype=int)
    )
    blocks, collate = [], collation(base)
    for index in indices[some]:
        sample = base[int(index)]
        block = target.input_tensors(sample if collate is None else collate([sample]))
        if not block:
            kind = type(sample[0] if isinstance(sample, tuple | list) else sample).__name__
            raise TargetError(
                f"target: split {name!r} must hold (input tensor, label) pairs, but the input is "
                f"of type {kind}; convert it in the dataset"
            )
        blocks.append([t.unsqueeze(0) for t in block] if collate is None else block)
    return blocks


def _counts(sizes: Mapping[str, float | None], total: int) -> dict[str, int]:
    """Return the number of samples of each split."""
    counts = {}
    for name, size in sizes.items():
        if size is not None:
            counts[name] = int(size if size >= 1 else size * total)
    left = total - sum(counts.values())
    counts = {name: counts.get(name, left) for name in sizes}
    if left < 0 or min(counts.values()) < 1:
        raise TargetError(
            f"target: every split needs samples, and there are {total} distinct ones, but the "
            f"sizes {dict(sizes)} come to {counts}; choose other sizes"
        )
    return counts


def _shuffled(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random order of the samples in which every stretch has about the same classes."""
    order = torch.randperm(len(labels), generator=generator)
    if labels.ndim != 1 or labels.is_floating_point():
        return order
    # Spread each class evenly over [0, 1), then sort all samples by their place.
    place = torch.empty(len(order), dtype=torch.float64)
    shuffled = labels[order]
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().flatten()
        jitter = torch.rand(len(members), generator=generator, dtype=torch.float64)
        place[members] = (torch.arange(len(members)) + jitter) / len(members)
    return order[place.argsort()]
