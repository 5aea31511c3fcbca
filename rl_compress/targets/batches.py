"""Batches: which part of one is the inputs, which the labels; and data sets that make them.

A batch is ``(inputs, labels)``, ``(input, …, labels)``, or a mapping with keyword inputs and
``labels``; the inputs of a pair may be a tuple (by place) or a mapping (by keyword) themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.model.nested import Inputs, mapped, tensors_in

Batch = Any
"""Tensors in tuples, lists or mappings, samples along their first axes."""

_LABELS = ("labels", "label")
"""Keys that labels have in a mapping."""


def parted(batch: Batch) -> tuple[Inputs, Any]:
    """Return a batch's inputs, as a model is called with them, and its labels; or of a sample.

    Labels are None where the batch has none.
    """
    if isinstance(batch, Mapping):
        named = dict(batch)
        found = [named.pop(key) for key in _LABELS if key in named]
        return named, found[0] if found else None
    if not isinstance(batch, tuple | list):
        return (batch,), None
    *inputs, labels = batch if len(batch) > 1 else (*batch, None)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return dict(inputs[0]), labels
    if len(inputs) == 1 and isinstance(inputs[0], tuple | list):
        return tuple(inputs[0]), labels
    return tuple(inputs), labels


def paired(batch: Batch) -> tuple[Any, Any]:
    """Return a batch as a pair of inputs and labels; a lone input is not in a tuple."""
    inputs, labels = parted(batch)
    return (inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs), labels


def unlabelled(batch: Batch) -> Batch:
    """Return a batch without its labels, which need not be alike in all batches of a split."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _LABELS}
    return (*batch[:-1], None) if isinstance(batch, tuple | list) and len(batch) > 1 else batch


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    if hasattr(batch, "to"):
        return batch.to(device)
    return mapped(lambda tensor: tensor.to(device), batch)


def picked(outputs: Any) -> Tensor:
    """Return what is scored of a model's outputs: their ``logits``, or else the first tensor.

    Raises:
        TargetError: There is no tensor in them.
    """
    if isinstance(outputs, Tensor):
        return outputs
    named = isinstance(outputs, Mapping)
    logits = outputs.get("logits") if named else getattr(outputs, "logits", None)
    found = logits if isinstance(logits, Tensor) else next(tensors_in(outputs), None)
    if found is None:
        raise TargetError(
            f"target: the model returned {type(outputs).__name__} without a tensor in it; pick "
            f"what counts in the target's forward(model, batch)"
        )
    return found


class NestedDataset(TensorDataset):
    """Samples in memory, whose tensors lie in tuples, lists and mappings."""

    def __init__(self, nest: Any) -> None:
        """Keep a batch of all samples; every tensor in it is as long as there are samples."""
        super().__init__(*tensors_in(nest))
        self.form = mapped(lambda _: torch.empty(0), nest)
        """The nest, without its tensors."""

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or a batch of some."""
        return batch_of(self, [tensor[index] for tensor in self.tensors])


def in_memory(nest: Any) -> TensorDataset:
    """Return the samples of a batch as a dataset; torch's own where it is a tuple of tensors."""
    if isinstance(nest, tuple | list) and all(isinstance(part, Tensor) for part in nest):
        return TensorDataset(*nest)
    return NestedDataset(nest)


def form_of(dataset: TensorDataset) -> Any:
    """Return a batch of a dataset in memory, with nothing in its tensors."""
    if isinstance(dataset, NestedDataset):
        return dataset.form
    return tuple(torch.empty(0) for _ in dataset.tensors)


def filled(form: Any, tensors: Iterable[Tensor]) -> Batch:
    """Return a form with other tensors in the place of its own."""
    rest = iter(tensors)
    return mapped(lambda _: next(rest), form)


def batch_of(dataset: TensorDataset, tensors: Sequence[Tensor]) -> Batch:
    """Return tensors in the form in which a dataset's batches have them."""
    if isinstance(dataset, NestedDataset):
        return filled(dataset.form, tensors)
    return tuple(tensors)


def some_of(dataset: TensorDataset, indices: Tensor) -> TensorDataset:
    """Return some samples of a dataset in memory."""
    return in_memory(batch_of(dataset, [tensor[indices] for tensor in dataset.tensors]))


class Collated(Dataset[Any]):
    """A data set with the function that makes batches of its samples."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any]) -> None:
        """Keep both."""
        self.dataset = dataset
        self.collate_fn = collate_fn

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def batches_of(
    dataset: Dataset[Any], batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Batch]:
    """Yield batches of a dataset, in order or shuffled by a generator."""
    if isinstance(dataset, TensorDataset):
        # Slicing whole tensors is many times faster than collating single samples.
        size = len(dataset)
        order = torch.randperm(size, generator=generator) if generator is not None else None
        for start in range(0, size, batch_size):
            chosen = slice(start, start + batch_size)
            index = chosen if order is None else order[chosen]
            yield batch_of(dataset, [tensor[index] for tensor in dataset.tensors])
        return
    yield from DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=generator is not None,
        generator=generator,
        collate_fn=collation(dataset),
    )


def collation(dataset: Dataset[Any]) -> Callable[[list[Any]], Any] | None:
    """Return the function that makes batches of a dataset's samples, if it has one of its own."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset.collate_fn if isinstance(dataset, Collated) else None
