"""Closeness to the uncompressed model's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.evaluation.scores import KEY, SHUFFLE_SEED, Score
from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import Batch, moved
from rl_compress.targets.target import Target, device_of


class Fidelity(Score):
    """How close a variant's outputs are to the uncompressed model's; 0 for an identical variant.

    Tells variants apart that classify the same samples correctly. Outputs are logits along the
    target's class axis: minus their mean KL divergence per prediction, in nats. Single values (one
    axis, or a class axis of length 1) have no distribution: minus their mean squared difference,
    divided by the variance of the uncompressed model's (as 1 - R^2 is).
    """

    def __init__(
        self, target: Target, reference: nn.Module, config: Any = None, *, sampled: bool = False
    ) -> None:
        """Run the uncompressed model over the search split once.

        Raises:
            ConfigError: The model's outputs are single values that are all equal.
        """
        super().__init__(target, reference, config)
        self._seed = SHUFFLE_SEED if sampled else None
        device = device_of(reference)
        count, aligned = 0, True
        outputs = []
        with torch.no_grad():
            for batch in self._batches(device):
                found = target.forward(reference, batch)
                axis = target.class_axis(found, target.labels(batch))
                outputs.append(_classes_last(found, axis))
                aligned = aligned and len(outputs[-1]) == num_samples(batch)
                count += num_samples(batch)
        # Samples of several lengths have unequal weights in a mean over predictions.
        alike = len({output.shape[1:] for output in outputs}) == 1
        self.num_samples = count if aligned and alike else None
        self._axis = axis
        self._single = outputs[0].ndim == 1 or outputs[0].shape[-1] == 1
        if self._single:
            self._expected = outputs
            everything = torch.cat([output.flatten() for output in outputs]).double()
            self._variance = float(everything.var(correction=0))
            if self._variance == 0:
                raise ConfigError(
                    f"{KEY}: fidelity is relative to the variance of the uncompressed model's "
                    f"outputs, which is 0 on the search split; choose {target.score_name}"
                )
        else:
            self._expected = [output.log_softmax(dim=-1) for output in outputs]

    def __call__(self, variant: nn.Module) -> float:
        """Return minus the mean difference per prediction."""
        device = device_of(variant)
        difference, count = 0.0, 0
        with torch.no_grad():
            for batch, expected in zip(self._batches(device), self._expected, strict=True):
                found = self._differences(self.target.forward(variant, batch), expected)
                difference += float(found.sum())
                count += found.numel()
        return -difference / count

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """See :meth:`Score.samples`."""
        device = device_of(variant)
        for batch, expected in zip(self._batches(device), self._expected, strict=True):
            with torch.no_grad():
                found = self._differences(self.target.forward(variant, batch), expected)
                yield -found.reshape(len(found), -1).mean(dim=1)

    def _batches(self, device: torch.device) -> Iterator[Batch]:
        for batch in self.target.batches("search", shuffle_seed=self._seed):
            yield moved(batch, device)

    def _differences(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Return the difference of each prediction, in double precision."""
        found = _classes_last(outputs, self._axis)
        if self._single:
            return (found.double() - expected.double()).square() / self._variance
        per_class = nn.functional.kl_div(
            found.log_softmax(dim=-1), expected, reduction="none", log_target=True
        )
        return per_class.sum(dim=-1, dtype=torch.float64)


def _classes_last(outputs: Tensor, axis: int) -> Tensor:
    return outputs.movedim(axis, -1).float()
