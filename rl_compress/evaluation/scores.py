"""Scores: how good a variant is on the search split, higher being better."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rl_compress.targets.target import Target, device_of

ScoreName = Literal["accuracy", "fidelity"]


class TargetScore:
    """The target's own score, such as accuracy."""

    def __init__(self, target: Target) -> None:
        """Keep the target."""
        self._target = target

    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant on the search split."""
        return self._target.score(variant, "search")


class Fidelity:
    """Minus the KL divergence of a variant's outputs from the uncompressed model's, in nats.

    Needs no labels, and tells variants apart that classify the same samples correctly. Outputs are
    logits along the last axis, or along axis 1 where they have four axes or more (images).
    """

    def __init__(self, target: Target, reference: nn.Module) -> None:
        """Run the uncompressed model over the search split once."""
        self._target = target
        device = device_of(reference)
        with torch.inference_mode():
            self._expected = [
                _log_probabilities(reference(inputs.to(device)))
                for inputs, _ in target.batches("search")
            ]

    def __call__(self, variant: nn.Module) -> float:
        """Return minus the mean divergence per prediction; 0 for an identical variant."""
        device = device_of(variant)
        divergence, count = 0.0, 0
        with torch.inference_mode():
            for (inputs, _), expected in zip(
                self._target.batches("search"), self._expected, strict=True
            ):
                found = _log_probabilities(variant(inputs.to(device)))
                per_class = nn.functional.kl_div(found, expected, reduction="none", log_target=True)
                divergence += float(per_class.sum(dtype=torch.float64))
                count += expected[..., 0].numel()
        return -divergence / count


def _log_probabilities(logits: Tensor) -> Tensor:
    moved = logits.movedim(1, -1) if logits.ndim >= 4 else logits
    return moved.float().log_softmax(dim=-1)


def make_score(name: ScoreName, target: Target, reference: nn.Module) -> TargetScore | Fidelity:
    """Return the function that scores variants.

    Args:
        name: ``accuracy`` (the target's own score) or ``fidelity``.
        target: Supplies the search split.
        reference: The uncompressed model, for fidelity.
    """
    return TargetScore(target) if name == "accuracy" else Fidelity(target, reference)
