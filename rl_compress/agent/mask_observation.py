"""What the agent sees before it decides a mask.

First what concerns the variant as a whole (:data:`CONTEXT` numbers), then a row for each unit
(:data:`UNIT_FEATURES` numbers).

| field | size | meaning |
|---|---|---|
| histogram | 16 | share of the kept weights in each of 16 bins (1) |
| weights | 5 | the same distribution by five numbers, as in :mod:`rl_compress.agent.observation` |
| budget | 1 | share of the tightest bound used by the variant |
| kept | 1 | share of units kept |
| value | 1 | reward of the variant against the uncompressed target's, in the env's unit |
| step | 1 | steps taken, as a share of the episode |
| unit: mask | 1 | whether the unit is in the variant |
| unit: importance | 1 | logarithm of the unit's importance, standardised over all units |
| unit: sensitivity | 1 | loss of score without the unit (2); zero without prior |
| unit: cost | 1 | what its removal saves of the tightest bound, largest saving = 1 |

(1) Of equal width over plus and minus three standard deviations of the uncompressed weights; the
outer bins take what is beyond. (2) In the env's unit, squashed by ``x / (1 + x)``.

The first two are the article's state: the distribution of the current parameters.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.agent.observation import weight_statistics
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace

_BINS = 16
_RANGE = 3.0
_BOUND = 10.0
"""Observations are clipped to plus and minus this."""

_LEAST = 1e-6
"""Importances below this share of the largest count as equal."""

CONTEXT = _BINS + 5 + 4
UNIT_FEATURES = 4


class Variants(Protocol):
    """Anything that builds variants from masks."""

    def variant(self, levels: Levels) -> nn.Module:
        """Return the variant, its removed weights being absent or zero."""


class MaskObserver:
    """Computes observations of one problem with masks."""

    def __init__(
        self,
        variants: Variants,
        space: SearchSpace,
        budget: Budget,
        cost_function: CostFunction,
        importance: npt.NDArray[np.float64],
        curves: SensitivityCurves | None,
        unit: float,
    ) -> None:
        """Compute what does not change.

        Args:
            variants: Builds them.
            space: A space of masks.
            budget: Upper bounds.
            cost_function: Exact costs of masks.
            importance: Importance of each unit by the job's criterion, shape ``(D,)``.
            curves: The score without each unit, or None.
            unit: Loss of score that counts as 1.
        """
        self._variants = variants
        self._budget = budget
        self._costs = cost_function
        full = space.full
        self._std = float(self._kept_weights(full).std(unbiased=False)) or 1.0
        logarithms = np.log(np.maximum(importance, _LEAST * importance.max() or 1.0))
        single = np.eye(len(space), dtype=np.int64)
        saved = self._usage(full) - np.array([self._usage(without) for without in full - single])
        loss = np.zeros(len(space))
        if curves is not None:
            loss = np.maximum(curves.original_score - np.array([s[-1] for s in curves.scores]), 0)
        self._units = np.stack(
            [
                (logarithms - logarithms.mean()) / (logarithms.std() or 1.0),
                loss / (loss + unit),
                saved / (saved.max() or 1.0),
            ],
            axis=1,
        )

    @property
    def size(self) -> int:
        """Length of an observation."""
        return CONTEXT + UNIT_FEATURES * len(self._units)

    @property
    def bound(self) -> float:
        """Largest absolute value in an observation."""
        return _BOUND

    def observe(self, mask: Levels, value: float, step: float) -> npt.NDArray[np.float32]:
        """Return the observation of a variant.

        Args:
            mask: The variant's mask, shape ``(D,)``.
            value: Its reward against the uncompressed target's.
            step: Share of the episode's steps taken.

        Returns:
            Shape ``(size,)``.
        """
        weights = self._kept_weights(mask)
        context = [
            *self._histogram(weights),
            *(weight_statistics(weights, self._std) if len(weights) else [0.0] * 5),
            self._usage(mask),
            float(np.mean(mask)),
            value,
            step,
        ]
        units = np.concatenate([np.asarray(mask, dtype=np.float64)[:, None], self._units], axis=1)
        observation = np.concatenate([context, units.ravel()])
        return np.clip(observation, -_BOUND, _BOUND).astype(np.float32)

    def _histogram(self, weights: Tensor) -> list[float]:
        limit = _RANGE * self._std
        counts = torch.histc(weights.clamp(-limit, limit), _BINS, -limit, limit)
        return (counts / max(len(weights), 1)).tolist()

    def _kept_weights(self, mask: Levels) -> Tensor:
        """Return the weights that a variant has left, shape ``(num_weights,)``."""
        weights = _weights(self._variants.variant(mask))
        return weights[weights != 0]

    def _usage(self, mask: Levels) -> float:
        return self._budget.usage(self._costs.costs(mask))


def _weights(variant: nn.Module) -> Tensor:
    parts = [parameter.detach().reshape(-1).float() for parameter in variant.parameters()]
    return torch.cat(parts).cpu()
