"""Scores: how good a variant is on the search split, higher being better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.evaluation.adversarial import InputAttack, RobustnessConfig, loss_of
from rl_compress.model.nested import num_samples
from rl_compress.targets.batches import Batch, moved
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target, device_of

ScoreName = str
"""``fidelity``, ``robust_accuracy``, or the name of the target's own score."""

FIDELITY = "fidelity"
ROBUST = "robust_accuracy"

_KEY = "objective.score"

_SHUFFLE_SEED = 0
"""Of the samples' order in a race: a split that is sorted by class has no fair first half."""

Score = Callable[[nn.Module], float]


@runtime_checkable
class SampledScore(Protocol):
    """A score that is the mean over the samples of the search split."""

    num_samples: int | None
    """Samples in the split; None where the score is no plain mean over them after all."""

    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant on the whole split."""

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """Yield the scores of single samples, a batch when it is asked for.

        Their order is always the same.
        """


class TargetScore:
    """The target's own score, such as accuracy."""

    def __init__(self, target: Target) -> None:
        """Keep the target."""
        self._target = target

    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant on the search split."""
        return scored(self._target, variant, "search")


class SampledTargetScore(TargetScore):
    """The target's own score, sample by sample where the target can tell it."""

    def __init__(self, target: Target, reference: nn.Module) -> None:
        """Compare the mean over samples with the score itself, on the uncompressed model."""
        super().__init__(target)
        self.num_samples: int | None = None
        first = next(self._blocks(reference))
        if first is None:
            return
        samples = torch.cat(list(self.samples(reference)))
        # A target that computes its score in a way of its own is taken at its word.
        expected = self(reference)
        if abs(float(samples.mean()) - expected) <= 1e-4 * max(abs(expected), 1.0):
            self.num_samples = len(samples)

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """See :meth:`SampledScore.samples`."""
        for block in self._blocks(variant):
            assert block is not None, "the target told single samples of the uncompressed model"
            yield block

    def _blocks(self, variant: nn.Module) -> Iterator[Tensor | None]:
        target, device = self._target, device_of(variant)
        for batch in target.batches("search", shuffle_seed=_SHUFFLE_SEED):
            batch = moved(batch, device)
            with torch.no_grad():
                outputs = target.forward(variant, batch)
                yield target.sample_scores(outputs, target.labels(batch))


class RobustScore:
    """The target's own score on inputs that are crafted against the variant it measures.

    The attack is white-box: FGSM or PGD by the gradient of the target's loss at that very variant.
    """

    def __init__(self, target: Target, reference: nn.Module, config: RobustnessConfig) -> None:
        """Look at the range of the inputs, and make sure that the target has a loss.

        Args:
            target: Supplies the search split, the loss and the score.
            reference: The uncompressed model.
            config: How strong the attack is.

        Raises:
            ConfigError: The target has no loss, or its inputs are not of floating point.
        """
        self._attack = InputAttack(target, config, key=_KEY)
        device = device_of(reference)
        batch = moved(next(iter(target.batches("search"))), device)
        with torch.no_grad():
            loss_of(target, f"{_KEY}: {ROBUST}")(reference, batch)

    def __call__(self, variant: nn.Module) -> float:
        """Attack a variant on the search split, and measure it."""
        return self._attack.score(variant)


class Fidelity:
    """How close a variant's outputs are to the uncompressed model's; 0 for an identical variant.

    Tells variants apart that classify the same samples correctly. Outputs are logits along the
    target's class axis: minus their mean KL divergence per prediction, in nats. Single values (one
    axis, or a class axis of length 1) have no distribution: minus their mean squared difference,
    divided by the variance of the uncompressed model's (as 1 - R^2 is).
    """

    def __init__(
        self, target: Target, reference: nn.Module, *, shuffle_seed: int | None = None
    ) -> None:
        """Run the uncompressed model over the search split once.

        Args:
            target: Supplies the search split.
            reference: The uncompressed model.
            shuffle_seed: Of the order of the samples; by default that of the split.

        Raises:
            ConfigError: The model's outputs are single values that are all equal.
        """
        self._target = target
        self._seed = shuffle_seed
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
                    f"{_KEY}: {FIDELITY} is relative to the variance of the uncompressed model's "
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
                found = self._differences(self._target.forward(variant, batch), expected)
                difference += float(found.sum())
                count += found.numel()
        return -difference / count

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """See :meth:`SampledScore.samples`."""
        device = device_of(variant)
        for batch, expected in zip(self._batches(device), self._expected, strict=True):
            with torch.no_grad():
                found = self._differences(self._target.forward(variant, batch), expected)
                yield -found.reshape(len(found), -1).mean(dim=1)

    def _batches(self, device: torch.device) -> Iterator[Batch]:
        for batch in self._target.batches("search", shuffle_seed=self._seed):
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


def make_score(
    name: ScoreName,
    target: Target,
    reference: nn.Module,
    robustness: RobustnessConfig | None = None,
    *,
    sampled: bool = False,
) -> Score:
    """Return the function that scores variants.

    Args:
        name: ``fidelity``, ``robust_accuracy`` (the target's own score under attack) or the
            target's ``score_name``.
        target: Supplies the search split.
        reference: The uncompressed model.
        robustness: How strong the attack of ``robust_accuracy`` is.
        sampled: Make it a :class:`SampledScore`, if it is a mean over samples.

    Raises:
        ConfigError: There is no such score, or the target lacks what it needs.
    """
    check_score(name, target)
    if name == FIDELITY:
        return Fidelity(target, reference, shuffle_seed=_SHUFFLE_SEED if sampled else None)
    if name == ROBUST:
        return RobustScore(target, reference, robustness or RobustnessConfig())
    return SampledTargetScore(target, reference) if sampled else TargetScore(target)


def check_score(name: ScoreName, target: Target) -> None:
    """Make sure that a target has a score.

    Raises:
        ConfigError: It has not; the message lists those it has.
    """
    if name not in (FIDELITY, ROBUST, target.score_name):
        raise ConfigError(
            f"{_KEY}: there is no score {name!r}; this target offers {target.score_name}, "
            f"{FIDELITY} and {ROBUST}"
        )
