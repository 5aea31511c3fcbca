"""The target: what is compressed, with the data that tells good variants from bad ones.

A user implements :class:`Target`, or hands a model and four datasets to
:class:`ClassificationTarget`, which does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from rl_compress.errors import TargetError
from rl_compress.model.nested import Inputs, arguments_of, call, mapped, tensors_in
from rl_compress.targets.batches import Batch, batches_of, moved, parted, picked, unlabelled
from rl_compress.targets.classes import check_range, class_indices, find_class_axis, normalised
from rl_compress.targets.datasets import as_dataset

SPLITS = ("train", "calibration", "search", "test")
"""Disjoint by contract: fine-tuning, recalibration, scoring of variants, and the final figures."""


class Target(ABC):
    """A model with its data splits and its score.

    A target is built anew in every worker process, so its constructor should be cheap: read data
    lazily, in :meth:`split`. The splits must be the same in every process (fix the seeds).

    A batch may be ``(inputs, labels)``, ``(input, …, labels)``, or a mapping with keyword inputs
    and ``labels``; for any other kind override :meth:`forward` and :meth:`labels`.
    """

    score_name = "score"
    """What :meth:`score` measures, for tables and records; higher is better."""

    batch_size = 256
    """Samples per forward pass in calibration and scoring."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the uncompressed model with its trained weights, in evaluation mode."""

    def architecture(self) -> nn.Module:
        """Return the same modules with any weights; override it where :meth:`build` trains."""
        return self.build()

    @abstractmethod
    def split(self, name: str) -> Dataset[Any]:
        """Return one of :data:`SPLITS`: a map-style dataset of ``(input, label)`` pairs.

        Its samples may be of any form that batches may have. Of a DataLoader or an iterable data
        set, :func:`rl_compress.targets.as_dataset` makes one.
        """

    @abstractmethod
    def score(self, model: nn.Module, split: str) -> float:
        """Measure ``model`` on a split, on whatever device the model is; higher is better."""

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run a model on a batch, and return those of its outputs that are scored and learned from.

        By default the model gets the inputs of a batch as they lie in it: by place, or by keyword
        those of a mapping. Of outputs that are no tensor, ``logits`` are picked, or else the first
        tensor.

        Args:
            model: The uncompressed model or a variant of it.
            batch: As :meth:`batches` yields it, on the device of the model.

        Returns:
            Shape ``(batch, …)``.
        """
        return picked(call(model, parted(batch)[0]))

    def labels(self, batch: Batch) -> Any:
        """Return a batch's labels: its last part, or what a mapping has under ``labels``.

        None where it has none; then the uncompressed model's outputs are all there is to learn.
        """
        return parted(batch)[1]

    def sample_scores(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Return each sample's score, or None where :meth:`score` is not their mean.

        Only a score that is such a mean can be told from part of a split.

        Args:
            outputs: Of the model, shape ``(batch, …)``.
            labels: Of the samples, shape ``(batch, …)``.

        Returns:
            Shape ``(batch,)``.
        """
        return None

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Return the training loss against the labels, or None to learn from the teacher alone."""
        return None

    def class_axis(self, outputs: Tensor, labels: Tensor | None = None) -> int:
        """Return the axis of logits that counts classes, for fidelity and distillation.

        By default axis 1 of four axes or more (images), else the last one.

        Args:
            outputs: Of the model, shape ``(batch, …)``.
            labels: Theirs, where they are at hand.
        """
        return 1 if outputs.ndim >= 4 else -1

    def check_labels(self, outputs: Tensor, labels: Any) -> None:
        """Make sure that labels can be those of a model's outputs; by default all can be.

        Args:
            outputs: Of the model for some samples, shape ``(batch, …)``.
            labels: Of these samples, and perhaps of more, shape ``(samples, …)``.

        Raises:
            TargetError: They cannot be; the message says why.
        """
        return None

    def guess(self, labels: Tensor, samples: int) -> float | None:
        """Return what :meth:`score` may reach without looking at the inputs, within noise.

        Args:
            labels: Of the samples scored, in one row.
            samples: Number of these samples.

        Returns:
            By default 0 for a score called ``r2``, and None, which is not known, for others.
        """
        return 0.0 if self.score_name == "r2" else None

    def augment(self, inputs: Tensor) -> Tensor:
        """Return a batch of the training split, varied as in the model's own training.

        Without it, the compressed model is trained on the same samples again and again, and learns
        them by heart. Override it with random shifts, flips, crops or noise, drawn from torch's
        global generator, which is seeded by the caller. Labels must remain right.

        Args:
            inputs: Shape ``(batch, …)``, on the device of the model; not to be written into. Of
                batches that are no pair ``(inputs, labels)`` the whole batch.

        Returns:
            Same shape; by default the inputs as they are.
        """
        return inputs

    def augmented(self, batch: Batch) -> Batch:
        """Return a batch of the training split with :meth:`augment` applied."""
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return self.augment(batch[0]), batch[1]
        return self.augment(batch)

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Return how far a compressed model's outputs are from the uncompressed one's.

        Logits, with classes along :meth:`class_axis`, are compared by
        ``T^2 KL(softmax(expected / T) || softmax(outputs / T))``, the mean over predictions
        (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). Single values are
        compared by their mean squared error. Override it for other outputs.

        Args:
            outputs: Of the compressed model, shape ``(batch, …)``.
            expected: Of the uncompressed model, same shape.
            temperature: T; softens both distributions.
        """
        axis = self.class_axis(outputs)
        outputs, expected = outputs.movedim(axis, -1), expected.movedim(axis, -1)
        if outputs.ndim == 1 or outputs.shape[-1] == 1:
            return nn.functional.mse_loss(outputs, expected)
        divergence = nn.functional.kl_div(
            (outputs / temperature).log_softmax(dim=-1).flatten(0, -2),
            (expected / temperature).log_softmax(dim=-1).flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence

    def example_inputs(self) -> Inputs:
        """Return the inputs of a forward pass, with batch size 1, for tracing and counting.

        Returns:
            By place in a tuple, or by keyword in a dictionary.
        """
        sample = self.split("calibration")[0]
        if isinstance(sample, tuple | list) and len(sample) == 2 and isinstance(sample[0], Tensor):
            return (sample[0].unsqueeze(0),)
        return parted(self._one("calibration"))[0]

    def inputs_for(self, model: nn.Module) -> Inputs:
        """Return :meth:`example_inputs`, or else what :meth:`forward` calls a model with."""
        own = type(self)
        if own.forward is Target.forward or own.example_inputs is not Target.example_inputs:
            return self.example_inputs()
        batch = moved(self._one("calibration"), device_of(model))
        return arguments_of(model, lambda: self.forward(model, batch))

    def input_tensors(self, batch: Batch) -> list[Tensor]:
        """Return the tensors of a batch that are no labels."""
        if type(self).labels is Target.labels:
            return list(tensors_in(parted(batch)[0]))
        labels = {id(tensor) for tensor in tensors_in(self.labels(batch))}
        return [tensor for tensor in tensors_in(batch) if id(tensor) not in labels]

    def without_labels(self, batch: Batch) -> Batch:
        """Return a batch for :meth:`forward` alone, without its labels where they are known."""
        own = type(self)
        plain = own.forward is Target.forward and own.labels is Target.labels
        return unlabelled(batch) if plain else batch

    def _one(self, split: str) -> Batch:
        """Return a batch of one sample."""
        batch = next(iter(self.batches(split, batch_size=1)))
        return mapped(lambda tensor: tensor[:1] if tensor.ndim else tensor, batch)

    def batches(
        self, split: str, *, shuffle_seed: int | None = None, batch_size: int | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of a split, in order or shuffled with the seed."""
        return self.batches_of(self.split(split), shuffle_seed=shuffle_seed, batch_size=batch_size)

    def batches_of(
        self,
        dataset: Dataset[Any],
        *,
        shuffle_seed: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Yield batches of a dataset, as :meth:`batches` does of a split."""
        generator = None
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
        yield from batches_of(dataset, batch_size or self.batch_size, generator)


class ClassificationTarget(Target):
    """A classifier scored by accuracy in percent, made from a model function and four datasets.

    Score, loss, fidelity and distillation all take the classes along the same axis of the outputs.
    Where several predictions are made for a sample, as for every pixel or every word, each counts.
    """

    score_name = "accuracy"

    # Of the class, for subclasses that make their splits without calling this constructor.
    _class_axis: int | None = None
    _ignored = -100

    def __init__(
        self,
        build: Callable[[], nn.Module],
        splits: Mapping[str, Dataset[Any] | DataLoader[Any]],
        *,
        batch_size: int = 256,
        class_axis: int | None = None,
        ignore_index: int = -100,
    ) -> None:
        """Keep the parts.

        Args:
            build: Returns the trained model; called once in the driver.
            splits: A dataset of ``(input, integer label)`` for each of :data:`SPLITS`, or of
                samples of another form that batches may have; a DataLoader or an iterable dataset
                too, see :func:`as_dataset`.
            batch_size: Samples per forward pass.
            class_axis: Axis of the outputs that counts classes; by default the one that the labels
                lack, see :mod:`rl_compress.targets.classes`.
            ignore_index: Label of predictions that count neither in score nor in loss.
        """
        missing = [name for name in SPLITS if name not in splits]
        if missing:
            raise TargetError(
                f"target: the data lacks the split(s) {', '.join(missing)}; give all of {SPLITS}"
            )
        self._build = build
        self._splits: dict[str, Any] = dict(splits)
        self.batch_size = batch_size
        self._class_axis = class_axis
        self._ignored = ignore_index

    def build(self) -> nn.Module:
        """Return the model that the function given makes."""
        return self._build().eval()

    def split(self, name: str) -> Dataset[Any]:
        """Return one of the datasets given, or what was read of it into memory."""
        given = self._splits[name]
        if isinstance(given, DataLoader | IterableDataset):
            self._splits[name] = given = as_dataset(given, f"target: split {name!r}")
        return given

    def class_axis(self, outputs: Tensor, labels: Tensor | None = None) -> int:
        """Return the axis of the outputs that counts classes, from 1 on.

        Raises:
            TargetError: The labels fit none, or leave it open.
        """
        if labels is None and self._class_axis is not None:
            return normalised(self._class_axis, outputs.ndim)
        if labels is None:
            sample = self.split("train")[0]
            if isinstance(sample, tuple | list) and len(sample) == 2:
                label = torch.as_tensor(self.labels(sample))
            else:
                label = self.labels(self._one("train"))[0]
            shape = (len(outputs), *label.shape)
        else:
            shape = tuple(labels.shape)
        # It is the target's: a batch whose sequences are as long as there are classes has it too.
        self._class_axis = find_class_axis(outputs.shape, shape, self._class_axis)
        return self._class_axis

    def check_labels(self, outputs: Tensor, labels: Any) -> None:
        """Make sure that labels are integers, one for each prediction, and have a class each."""
        indices = class_indices(labels)
        axis = self.class_axis(outputs, indices[: len(outputs)])
        check_range(indices, outputs.shape[axis], self._ignored)

    def guess(self, labels: Tensor, samples: int) -> float | None:
        """Return the accuracy of always naming the most frequent class, plus two standard errors.

        None for a score of another name.
        """
        indices = class_indices(labels)
        counted = indices[indices != self._ignored]
        if self.score_name != ClassificationTarget.score_name or not counted.numel():
            return None
        share = float(counted.unique(return_counts=True)[1].max()) / counted.numel()
        return 100.0 * (share + 2.0 * (share * (1.0 - share) / samples) ** 0.5)

    def score(self, model: nn.Module, split: str) -> float:
        """Return the accuracy in percent, 0 to 100."""
        device = device_of(model)
        correct = total = 0
        # No inference mode: what a forward pass leaves in the model is trained with later.
        with torch.no_grad():
            for batch in self.batches(split):
                batch = moved(batch, device)
                right, counted = self._compare(self.forward(model, batch), self.labels(batch))
                correct += int(right.sum())
                total += int(counted.sum())
        if not total:
            raise TargetError(f"target: split {split!r} has no labels but {self._ignored}")
        return 100.0 * correct / total

    def sample_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return 100 for each sample classified correctly, else 0; of many labels, their mean."""
        right, counted = self._compare(outputs, labels)
        right, counted = (found.double().reshape(len(found), -1) for found in (right, counted))
        return 100.0 * right.sum(dim=1) / counted.sum(dim=1).clamp_min(1.0)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        indices = class_indices(labels)
        logits = outputs.movedim(self.class_axis(outputs, indices), 1)
        return nn.functional.cross_entropy(logits, indices, ignore_index=self._ignored)

    def _compare(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return which predictions are right, and which count, both in the labels' shape."""
        indices = class_indices(labels)
        predicted = outputs.argmax(dim=self.class_axis(outputs, indices))
        counted = indices != self._ignored
        return (predicted == indices) & counted, counted


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first tensor, or the CPU if it has none."""
    tensor: Any = next(model.parameters(), None)
    return tensor.device if tensor is not None else torch.device("cpu")
