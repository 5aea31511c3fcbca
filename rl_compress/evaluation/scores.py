"""Scores: how good a variant is on the search split, higher being better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.registry import SCORES, Part
from rl_compress.targets.batches import moved
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target, device_of

ScoreName = str
"""A score of :data:`~rl_compress.registry.SCORES`, or the name of the target's own."""

KEY = "objective.score"

SHUFFLE_SEED = 0
"""Of the samples' order in a race: a split that is sorted by class has no fair first half."""


class Score(Part, ABC):
    """Measures variants of one target."""

    num_samples: int | None = None
    """Samples in the split, where the score is the mean over those of :meth:`samples`."""

    def __init__(
        self, target: Target, reference: nn.Module, config: Any = None, *, sampled: bool = False
    ) -> None:
        """Look at the target.

        Args:
            target: Supplies the search split.
            reference: The uncompressed model.
            config: The options, an instance of ``Config``.
            sampled: Variants are to be raced, so tell single samples if that is possible.

        Raises:
            ConfigError: The target lacks what the score needs.
        """
        super().__init__(config)
        self.target = target
        self.reference = reference

    @abstractmethod
    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant, in evaluation mode, on the search split."""

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """Yield the scores of single samples, a batch when it is asked for, in the same order."""
        raise NotImplementedError


class TargetScore(Score):
    """The target's own score, such as accuracy."""

    def __init__(
        self, target: Target, reference: nn.Module, config: Any = None, *, sampled: bool = False
    ) -> None:
        """See :class:`Score`; if the target can tell single samples, compare their mean."""
        super().__init__(target, reference, config)
        if not sampled or next(self._blocks(reference)) is None:
            return
        samples = torch.cat(list(self.samples(reference)))
        # A target that computes its score in a way of its own is taken at its word.
        expected = self(reference)
        if abs(float(samples.mean()) - expected) <= 1e-4 * max(abs(expected), 1.0):
            self.num_samples = len(samples)

    def __call__(self, variant: nn.Module) -> float:
        """Measure a variant on the search split."""
        return scored(self.target, variant, "search")

    def samples(self, variant: nn.Module) -> Iterator[Tensor]:
        """See :meth:`Score.samples`."""
        for block in self._blocks(variant):
            assert block is not None, "the target told single samples of the uncompressed model"
            yield block

    def _blocks(self, variant: nn.Module) -> Iterator[Tensor | None]:
        target, device = self.target, device_of(variant)
        for batch in target.batches("search", shuffle_seed=SHUFFLE_SEED):
            batch = moved(batch, device)
            with torch.no_grad():
                outputs = target.forward(variant, batch)
                yield target.sample_scores(outputs, target.labels(batch))


def make_score(
    name: ScoreName,
    target: Target,
    reference: nn.Module,
    options: Mapping[str, Any] | None = None,
    *,
    sampled: bool = False,
) -> Score:
    """Return what scores variants.

    Args:
        name: One of :data:`~rl_compress.registry.SCORES`, ``package.module:Class``, or the target's
            ``score_name``.
        target: Supplies the search split.
        reference: The uncompressed model.
        options: Those of the score's ``Config``.
        sampled: See :class:`Score`.

    Raises:
        ConfigError: There is no such score or option, or the target lacks what it needs.
    """
    made, config = find_score(name, target, options)
    return made(target, reference, config, sampled=sampled)


def find_score(name: ScoreName, target: Target, options: Mapping[str, Any] | None = None) -> Any:
    """Return a score's class, and its options as an instance of its ``Config``.

    Raises:
        ConfigError: There is no such score or option; the message lists those there are.
    """
    if name == target.score_name:
        name = "rl_compress.evaluation.scores:TargetScore"
    try:
        SCORES.path(name, also=[target.score_name])
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}, but got {name!r}") from None
    return SCORES.load(name, options, key=KEY)
