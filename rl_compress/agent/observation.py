"""What the agent sees before it decides a dimension: the units or the bits of a group.

| field | size | meaning |
|---|---|---|
| position | 1 | index of the dimension, 0 (first) to 1 (last) |
| kind | 4 | one-hot: conv, depthwise, grouped, linear |
| aspect | 3 | one-hot: pruning ratio, weight bits, activation bits |
| shape | 2 | log10 of the most units or bits, and of the group's parameters, divided by 8 |
| cost share | 2 | share of the target's MACs and parameters in the layers that the group decides |
| sensitivity | 8 | loss of score at eight amounts, from full to smallest (1); zeros without prior |
| prior | 1 | fraction of units, or bits, that the prior keeps; 1 without a prior |
| weights | 5 | distribution of the group's weights as narrowed by the decisions so far (2) |
| budget | 2 | share of the tightest bound used if the undecided groups take their prior's, and
  their smallest levels |
| bounds | 6 | log10 of each cost's bound as a fraction of the target's own; 0 if there is none;
  more than 6 with costs of the user's own |
| decisions | D | fraction given up in every dimension decided so far, 0 for the others |
| decided | D | 1 for every dimension decided so far |

(1) In units of what the prior loses against the uncompressed target, squashed by ``x / (1 + x)``.
(2) In units of the uncompressed weights' standard deviation: mean, standard deviation, mean
absolute value, a tenth of the largest absolute value; and log10 of the number of weights, over 8.
This is the article's state: the distribution of the parameters as compressed so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rl_compress.registry import COSTS
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import DECIDES, Levels
from rl_compress.variants.compressor import Compressor

_KINDS = ("conv", "depthwise", "grouped", "linear")
_CURVE_POINTS = 8
_BOUND = 10.0
"""Observations are clipped to plus and minus this."""


def weight_statistics(weights: torch.Tensor, original_std: float) -> list[float]:
    """Describe a distribution of weights by five numbers, as (2) says.

    Args:
        weights: Weights of any shape, at least one.
        original_std: Standard deviation of the uncompressed weights.
    """
    scaled = weights / original_std
    statistics: list[Any] = [
        scaled.mean(),
        scaled.std(unbiased=False),
        scaled.abs().mean(),
        scaled.abs().max() / 10,
    ]
    return [*(float(value) for value in statistics), float(np.log10(scaled.numel())) / 8]


class Observer:
    """Computes observations of one compression problem."""

    def __init__(
        self,
        compressor: Compressor,
        budget: Budget,
        prior: Levels | None,
        curves: SensitivityCurves | None,
        drop_scale: float,
    ) -> None:
        """Compute what does not change within an episode.

        Args:
            compressor: Groups, costs and shared weights.
            budget: Upper bounds.
            prior: The prior, shape ``(D,)``, or None.
            curves: Sensitivity curves, or None.
            drop_scale: Loss of score that counts as 1 in the sensitivity features.
        """
        self._compressor = compressor
        space = compressor.space
        self._space = space
        self._full, self._smallest = space.full, space.smallest
        self.face(budget, prior)
        self._original_std, self._original_weights = [], []
        for index in range(len(space)):
            weights = self._weights(index, self._full)
            self._original_std.append(weights.std().item() or 1.0)
            self._original_weights.append(weight_statistics(weights, self._original_std[-1]))
        self._static = np.stack(
            [self._static_features(index, curves, drop_scale) for index in range(len(space))]
        )

    def face(self, budget: Budget, prior: Levels | None) -> None:
        """Show another budget from now on, with the prior that goes with it."""
        original = self._compressor.costs.original
        bounds = budget.as_dict()
        self._budget = budget
        self._prior = self._full if prior is None else prior
        self._prior_kept = self._space.kept(self._prior)
        self._bounds = [
            float(np.log10(bounds[cost] / original[cost])) if cost in bounds else 0.0
            for cost in dict.fromkeys([*COSTS.built_in, *original])
        ]

    @property
    def size(self) -> int:
        """Length of an observation."""
        return self._static.shape[1] + 1 + 5 + 2 + len(self._bounds) + 2 * len(self._full)

    @property
    def bound(self) -> float:
        """Largest absolute value in an observation."""
        return _BOUND

    def observe(self, dimension: int, decided: Levels) -> npt.NDArray[np.float32]:
        """Return the observation before a decision.

        Args:
            dimension: Index of the one to decide; their number after the last decision.
            decided: Levels of those before it.

        Returns:
            Shape ``(size,)``.
        """
        current = self._full.copy()
        current[:dimension] = decided[:dimension]
        shown = min(dimension, len(self._full) - 1)
        ratios = 1.0 - self._space.kept(current)
        flags = np.arange(len(self._full)) < dimension
        features = [
            self._static[shown],
            [self._prior_kept[shown]],
            self._weight_statistics(shown, current),
            [self._usage(dimension, current, rest) for rest in (self._prior, self._smallest)],
            self._bounds,
            ratios,
            flags,
        ]
        observation = np.concatenate([np.asarray(part, dtype=np.float64) for part in features])
        return np.clip(observation, -_BOUND, _BOUND).astype(np.float32)

    def _static_features(
        self, index: int, curves: SensitivityCurves | None, drop_scale: float
    ) -> npt.NDArray[np.float64]:
        costs, own = self._compressor.costs, self._space.dimensions[index]
        original = costs.costs(self._full)
        macs = costs.macs_of(index, self._full)
        params = costs.params_of(index, self._full)
        curve = np.zeros(_CURVE_POINTS)
        if curves is not None:
            amounts = np.linspace(own.full, own.amounts[0], _CURVE_POINTS)
            drops = np.array([curves.drop_at(index, amount) for amount in amounts]) / drop_scale
            curve = drops / (1.0 + drops)
        position = index / max(len(self._space) - 1, 1)
        return np.concatenate(
            [
                [position],
                [float(self._compressor.kind_of(index) == kind) for kind in _KINDS],
                [float(own.decides == aspect) for aspect in DECIDES],
                [np.log10(own.full) / 8, np.log10(max(params, 1)) / 8],
                [macs / max(original["macs"], 1), params / max(original["params"], 1)],
                curve,
            ]
        )

    def _weights(self, dimension: int, levels: Levels) -> torch.Tensor:
        parts = self._compressor.weights_of(dimension, levels)
        return torch.cat([part.reshape(-1) for part in parts])

    def _weight_statistics(self, dimension: int, levels: Levels) -> list[float]:
        if np.array_equal(levels, self._full):
            return self._original_weights[dimension]
        weights = self._weights(dimension, levels)
        return weight_statistics(weights, self._original_std[dimension])

    def _usage(self, dimension: int, current: Levels, rest: Levels) -> float:
        levels = np.concatenate([current[:dimension], rest[dimension:]])
        return self._budget.usage(self._compressor.costs.costs(levels))
