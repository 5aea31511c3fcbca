"""Data sets from what programs hold: loaders, streams, tensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from rl_compress.errors import TargetError
from rl_compress.model.nested import joined, num_samples, tensors_in
from rl_compress.targets.batches import (
    Collated,
    batch_of,
    collation,
    in_memory,
    moved,
    paired,
    parted,
)
from rl_compress.targets.user_code import summary

logger = logging.getLogger(__name__)

BATCH_SIZE = 256
"""Samples that are read at once, where no loader says how many."""

_MOST_BYTES = 2**31
"""What is read of an iterable data set, which may have no end."""


def as_dataset(value: Any, where: str = "data") -> Dataset[Any]:
    """Return a map-style dataset with labels, for a target's splits.

    Args:
        value: A map-style dataset, a DataLoader of one or of an iterable data set, an iterable data
            set, or tensors: a pair ``(inputs, labels)``, whose inputs may be a tuple or a
            dictionary, ``(input, …, labels)``, or a dictionary of keyword inputs and ``labels``.
            Iterable ones are read into memory, as far as 2 GiB go.
        where: What to call it in messages.

    Raises:
        TargetError: It is no such data, or has no labels.
    """
    if isinstance(value, DataLoader):
        # Without a batch sampler the data set makes the batches itself.
        if isinstance(value.dataset, IterableDataset) or value.batch_sampler is None:
            return read(value, where, _MOST_BYTES)
        plain = value.collate_fn is default_collate
        value = value.dataset if plain else Collated(value.dataset, value.collate_fn)
    if isinstance(value, IterableDataset):
        return read(DataLoader(value, batch_size=BATCH_SIZE), where, _MOST_BYTES)
    if isinstance(value, Mapping):
        value = _whole(where, *parted(value))
    elif isinstance(value, tuple | list) and len(value) == 2:
        value = _whole(where, *value)
    elif isinstance(value, tuple) and len(value) > 2 and all(map(_is_array, value)):
        value = _whole(where, value[:-1], value[-1])
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise TargetError(
            f"{where}: must be a map-style Dataset, an iterable one, tensors (inputs, labels) or a "
            f"DataLoader of such a dataset, but got {kind(value)}"
        )
    if isinstance(value, Tensor | np.ndarray):
        raise TargetError(f"{where}: has no labels; give a pair (inputs, labels)")
    if isinstance(value, TensorDataset):
        value = in_memory(batch_of(value, [tensor.detach().cpu() for tensor in value.tensors]))
    if len(value):
        _check_sample(value, where)
    return value


def _check_sample(dataset: Any, where: str) -> None:
    collate = collation(dataset)
    try:
        sample = collate([dataset[0]]) if collate else dataset[0]
    except Exception as error:
        raise TargetError(f"{where}: cannot be read ({summary(error)})") from error
    inputs, labels = paired(sample)
    if labels is None:
        raise TargetError(
            f"{where}: has no labels: each sample must be a pair (input, label), or have them as "
            f"its last part or under labels, but the first is {kind(sample)}"
        )
    if not any(True for _ in tensors_in(inputs)):
        raise TargetError(
            f"{where}: inputs must be tensors, but the first is of type "
            f"{type(inputs).__name__}; convert them in the dataset's transform"
        )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _whole(where: str, inputs: Any, labels: Any) -> TensorDataset:
    """Return inputs and labels of all samples as a dataset."""
    if labels is None:
        raise TargetError(f"{where}: has no labels; add them under the key labels")
    try:
        pair = paired((_converted(inputs), torch.as_tensor(labels)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"{where}: a pair must be of two tensors ({error})") from None
    for tensor in tensors_in(pair):
        if len(tensor) != len(pair[1]):
            raise TargetError(
                f"{where}: every sample needs one label, but there are {len(tensor)} inputs and "
                f"{len(pair[1])} labels"
            )
    return in_memory(pair)


def _converted(inputs: Any) -> Any:
    """Return inputs as tensors: one, or several in a tuple or dictionary."""
    if isinstance(inputs, Mapping):
        return {str(name): _converted(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list) and inputs and all(map(_is_array, inputs)):
        return tuple(map(torch.as_tensor, inputs))
    return torch.as_tensor(inputs)


def read(loader: DataLoader[Any], where: str, most: float = math.inf) -> TensorDataset:
    """Read batches into memory, up to a number of bytes."""
    batches: list[Any] = []
    try:
        for batch in loader:
            batches.append(moved(paired(batch), torch.device("cpu")))
            most -= sum(tensor.nbytes for tensor in tensors_in(batch))
            if most < 0:
                logger.warning(
                    "%s: only its first %d samples are used, for no more fit into 2 GiB; give a "
                    "map-style Dataset to use all",
                    where,
                    sum(map(num_samples, batches)),
                )
                break
        if not batches:
            raise TargetError(f"{where}: it is empty; give some samples")
        whole = joined(batches)
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(
            f"{where}: cannot be read into tensors ({summary(error)}); all its inputs must "
            f"be of one shape"
        ) from error
    if not isinstance(whole[1], Tensor):
        raise TargetError(f"{where}: has no labels, or labels that are no tensors")
    return in_memory(whole)


def kind(value: Any) -> str:
    """Name a value's type, and its length where that tells something."""
    size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"
