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
from torch.utils.data import DataLoader, Dataset, TensorDataset

from rl_compress.errors import TargetError

SPLITS = ("train", "calibration", "search", "test")
"""Disjoint by contract: fine-tuning, recalibration, scoring of variants, and the final figures."""

Batch = tuple[Tensor, Tensor]


class Target(ABC):
    """A model with its data splits and its score.

    A target is built anew in every worker process, so its constructor should be cheap: read data
    lazily, in :meth:`split`. The splits must be the same in every process (fix the seeds).
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
        """Return one of :data:`SPLITS`: a map-style dataset of ``(input, label)`` pairs."""

    @abstractmethod
    def score(self, model: nn.Module, split: str) -> float:
        """Measure ``model`` on a split, on whatever device the model is; higher is better."""

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

    def augment(self, inputs: Tensor) -> Tensor:
        """Return a batch of the training split, varied as in the model's own training.

        Without it, the compressed model is trained on the same samples again and again, and learns
        them by heart. Override it with random shifts, flips, crops or noise, drawn from torch's
        global generator, which is seeded by the caller. Labels must remain right.

        Args:
            inputs: Shape ``(batch, …)``, on the device of the model; not to be written into.

        Returns:
            Same shape; by default the inputs as they are.
        """
        return inputs

    def distillation_loss(self, outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
        """Return how far a compressed model's outputs are from the uncompressed one's.

        Logits, with classes along the last axis or along axis 1 of four axes or more, are compared
        by ``T^2 KL(softmax(expected / T) || softmax(outputs / T))``, the mean over predictions
        (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). Single values are
        compared by their mean squared error. Override it for other outputs.

        Args:
            outputs: Of the compressed model, shape ``(batch, …)``.
            expected: Of the uncompressed model, same shape.
            temperature: T; softens both distributions.
        """
        if outputs.ndim >= 4:
            outputs, expected = outputs.movedim(1, -1), expected.movedim(1, -1)
        if outputs.ndim == 1 or outputs.shape[-1] == 1:
            return nn.functional.mse_loss(outputs, expected)
        divergence = nn.functional.kl_div(
            (outputs / temperature).log_softmax(dim=-1).flatten(0, -2),
            (expected / temperature).log_softmax(dim=-1).flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs of a forward pass, with batch size 1, for tracing and counting."""
        sample = self.split("calibration")[0]
        return (sample[0].unsqueeze(0),)

    def batches(
        self, split: str, *, shuffle_seed: int | None = None, batch_size: int | None = None
    ) -> Iterator[Batch]:
        """Yield ``(inputs, labels)`` batches of a split, in order or shuffled with the seed."""
        return self.batches_of(self.split(split), shuffle_seed=shuffle_seed, batch_size=batch_size)

    def batches_of(
        self,
        dataset: Dataset[Any],
        *,
        shuffle_seed: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Yield batches of a dataset, as :meth:`batches` does of a split."""
        batch_size = batch_size or self.batch_size
        generator = None
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
        if isinstance(dataset, TensorDataset):
            # Slicing whole tensors is many times faster than collating single samples.
            inputs, labels = dataset.tensors
            size = len(inputs)
            order = torch.randperm(size, generator=generator) if generator is not None else None
            for start in range(0, size, batch_size):
                stop = start + batch_size
                if order is None:
                    yield inputs[start:stop], labels[start:stop]
                else:
                    yield inputs[order[start:stop]], labels[order[start:stop]]
            return
        yield from DataLoader(
            dataset, batch_size=batch_size, shuffle=generator is not None, generator=generator
        )


class ClassificationTarget(Target):
    """A classifier scored by accuracy in percent, made from a model function and four datasets."""

    score_name = "accuracy"

    def __init__(
        self,
        build: Callable[[], nn.Module],
        splits: Mapping[str, Dataset[Any]],
        *,
        batch_size: int = 256,
    ) -> None:
        """Keep the parts.

        Args:
            build: Returns the trained model; called once in the driver.
            splits: A dataset of ``(input, integer label)`` for each of :data:`SPLITS`.
            batch_size: Samples per forward pass.
        """
        missing = [name for name in SPLITS if name not in splits]
        if missing:
            raise TargetError(
                f"target: the data lacks the split(s) {', '.join(missing)}; give all of {SPLITS}"
            )
        self._build = build
        self._splits = dict(splits)
        self.batch_size = batch_size

    def build(self) -> nn.Module:
        """Return the model that the function given makes."""
        return self._build().eval()

    def split(self, name: str) -> Dataset[Any]:
        """Return one of the datasets given."""
        return self._splits[name]

    def score(self, model: nn.Module, split: str) -> float:
        """Return the accuracy in percent, 0 to 100."""
        device = device_of(model)
        correct = total = 0
        with torch.inference_mode():
            for inputs, labels in self.batches(split):
                predicted = model(inputs.to(device)).argmax(dim=-1)
                correct += int((predicted == labels.to(device)).sum())
                total += labels.numel()
        return 100.0 * correct / total

    def sample_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return 100 for each sample classified correctly, else 0; of many labels, their mean."""
        correct = (outputs.argmax(dim=-1) == labels).double()
        return 100.0 * correct.reshape(len(correct), -1).mean(dim=1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return nn.functional.cross_entropy(outputs, labels)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first tensor, or the CPU if it has none."""
    tensor: Any = next(model.parameters(), None)
    return tensor.device if tensor is not None else torch.device("cpu")
