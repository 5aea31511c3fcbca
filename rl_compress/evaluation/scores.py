"""Scores: how good a variant is on the search split, higher being better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.evaluation.adversarial import InputAttack, RobustnessConfig, loss_of
from rl_compress.targets.target import Target, device_of

ScoreName = str
"""``fidelity``, ``robust_accuracy``, or the name of the target's own score."""

FIDELITY = "fidelity"
ROBUST = "robust_accuracy"

_KEY = "objective.score"

Score = Callable[[nn.Module], float]


class TargetScore:
    """The target's own score, such as accuracy."""

    def __init__(self, target: Target) -> None:
        """Keep the target."""
        self._target = target

    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant on the search split."""
        return self._target.score(variant, "search")


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
        inputs, labels = next(iter(target.batches("search")))
        with torch.no_grad():
            loss_of(target, f"{_KEY}: {ROBUST}")(reference(inputs.to(device)), labels.to(device))

    def __call__(self, variant: nn.Module) -> float:
        """Attack a variant on the search split, and measure it."""
        return self._attack.score(variant)


class Fidelity:
    """How close a variant's outputs are to the uncompressed model's; 0 for an identical variant.

    Needs no labels, and tells variants apart that classify the same samples correctly. Outputs are
    logits along the last axis, or along axis 1 where they have four axes or more (images): minus
    their mean KL divergence per prediction, in nats. Single values (one axis, or a last axis of
    length 1) have no distribution: minus their mean squared difference, divided by the variance of
    the uncompressed model's (as 1 - R^2 is).
    """

    def __init__(self, target: Target, reference: nn.Module) -> None:
        """Run the uncompressed model over the search split once.

        Raises:
            ConfigError: The model's outputs are single values that are all equal.
        """
        self._target = target
        device = device_of(reference)
        with torch.inference_mode():
            outputs = [
                _classes_last(reference(inputs.to(device)))
                for inputs, _ in target.batches("search")
            ]
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
        with torch.inference_mode():
            for (inputs, _), expected in zip(
                self._target.batches("search"), self._expected, strict=True
            ):
                found = _classes_last(variant(inputs.to(device)))
                if self._single:
                    squares = (found.double() - expected.double()).square() / self._variance
                    difference += float(squares.sum())
                    count += expected.numel()
                    continue
                per_class = nn.functional.kl_div(
                    found.log_softmax(dim=-1), expected, reduction="none", log_target=True
                )
                difference += float(per_class.sum(dtype=torch.float64))
                count += expected[..., 0].numel()
        return -difference / count


def _classes_last(outputs: Tensor) -> Tensor:
    return (outputs.movedim(1, -1) if outputs.ndim >= 4 else outputs).float()


def make_score(
    name: ScoreName,
    target: Target,
    reference: nn.Module,
    robustness: RobustnessConfig | None = None,
) -> Score:
    """Return the function that scores variants.

    Args:
        name: ``fidelity``, ``robust_accuracy`` (the target's own score under attack) or the
            target's ``score_name``.
        target: Supplies the search split.
        reference: The uncompressed model.
        robustness: How strong the attack of ``robust_accuracy`` is.

    Raises:
        ConfigError: There is no such score, or the target lacks what it needs.
    """
    check_score(name, target)
    if name == FIDELITY:
        return Fidelity(target, reference)
    if name == ROBUST:
        return RobustScore(target, reference, robustness or RobustnessConfig())
    return TargetScore(target)


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
