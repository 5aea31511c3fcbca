"""A target with few of its samples: what is tried on it takes seconds, whatever the data."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import Batch, Collated, collation, some_of
from rl_compress.targets.splits import rooted
from rl_compress.targets.target import Target
from rl_compress.targets.user_code import user_code

_OWN = ("score", "sample_scores", "loss", "distillation_loss", "augment")
"""Methods of a user's target that are called with the model's outputs, or the model."""


def with_few_samples(target: Target, sizes: Mapping[str, int]) -> Target:
    """Return a target whose splits have at most so many samples, evenly spread.

    What its methods and datasets raise is a TargetError that names the method.

    Args:
        target: Left as it is.
        sizes: Most samples of each split.
    """
    own = type(target)
    name_of_class = own.__name__
    known: dict[str, Dataset[Any]] = {}

    def split(self: Any, name: str) -> Dataset[Any]:
        if name not in known:
            with user_code(f"split({name!r}) of {name_of_class}, or one of its samples,"):
                known[name] = _some(super(few_class, self).split(name), sizes[name])
        return known[name]

    def batches(self: Any, name: str, **options: Any) -> Iterator[Batch]:
        read = 0
        with user_code(f"batches({name!r}) of {name_of_class}"):
            for batch in super(few_class, self).batches(name, **options):
                yield batch
                # A target that reads batches by other ways than its split has more of them.
                if (read := read + num_samples(batch)) >= sizes[name]:
                    return

    def named(method: str) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            with user_code(f"{method}() of {name_of_class}"):
                return getattr(super(few_class, self), method)(*args, **options)

        return call

    methods = {"split": split, "batches": batches, **{name: named(name) for name in _OWN}}
    # A subclass and no wrapper, because methods of the target call one another.
    few_class: Any = type(name_of_class, (own,), methods)
    few = detached(target)
    few.__class__ = few_class
    return few


def detached(target: Target) -> Target:
    """Return a copy that shares the target's data, but not what it keeps in its attributes.

    A target may keep what it has read in a dictionary; other data must not get into that.
    """
    other = copy.copy(target)
    kept = {n: v for n, v in vars(other).items() if isinstance(v, dict | list | set)}
    vars(other).update({name: copy.copy(value) for name, value in kept.items()})
    return other


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the global generators of torch, numpy and Python back at the end."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


class _Some(Dataset[Any]):
    """Some samples of a dataset, read once; all else is the dataset's."""

    def __init__(self, dataset: Any, indices: np.ndarray) -> None:
        self._dataset = dataset
        self._samples = [dataset[int(index)] for index in indices]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as __getitems__, which knows of other indices
            raise AttributeError(name)
        return getattr(self.__dict__["_dataset"], name)


def _some(dataset: Any, size: int) -> Dataset[Any]:
    count = len(dataset)
    indices = np.unique(np.linspace(0, count - 1, min(count, size), dtype=int))
    base, chosen = rooted(dataset, indices)
    if isinstance(base, TensorDataset):
        return some_of(base, torch.from_numpy(chosen))
    some, collate = _Some(dataset, indices), collation(dataset)
    return Collated(some, collate) if collate else some
