"""Where a search for masks starts: what the sensitivities say of each unit, and the first odds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import LATENCY, Budget, CostFunction
from rl_compress.space.mask_projection import project_mask
from rl_compress.space.search_space import Levels, SearchSpace

_CONFIDENCE = 0.95
"""Probability with which the first masks agree with the prior, in each unit."""

_UNDECIDED = 0.5
"""Share of units in the first masks where there is no prior, and the budget has room."""


def mask_prior(
    curves: SensitivityCurves,
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
    reward: Callable[[float, Mapping[str, float]], float],
) -> Levels:
    """Keep the units whose removal alone lowers the reward, as many as the budget admits.

    Args:
        curves: The score without each unit.
        budget: Upper bounds; must be feasible.
        space: A space of masks.
        cost_function: Exact costs of masks.
        reward: The objective, ``(score, costs) -> reward``.

    Returns:
        A mask within the budget, shape ``(D,)``.
    """

    def value(score: float, mask: Levels) -> float:
        # Latency is known of nothing that was not measured; it is taken as unchanged.
        return reward(score, {LATENCY: 0.0, **cost_function.costs(mask)})

    full = space.full
    complete = value(curves.original_score, full)
    losses = np.zeros(len(space))
    for unit, scores in enumerate(curves.scores):
        without = full.copy()
        without[unit] = 0
        losses[unit] = complete - value(scores[-1], without)
    return project_mask(losses > 0, losses, budget, space, cost_function)


def first_odds(
    prior: Levels | None,
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
    steps: int,
) -> npt.NDArray[np.float64]:
    """Return the probability with which an untrained agent keeps each unit in a step.

    A unit stays only if it is kept in every step, so the odds of the whole episode are spread over
    its steps.

    Args:
        prior: The mask to start from, shape ``(D,)``; None to keep half of the units, or
            as many as the budget admits.
        budget: Upper bounds; must be feasible.
        space: A space of masks.
        cost_function: Exact costs of masks.
        steps: Steps of an episode.
    """
    if prior is None:
        admitted = project_mask(space.full, np.zeros(len(space)), budget, space, cost_function)
        share = np.clip(admitted.mean(), 1.0 - _CONFIDENCE, _UNDECIDED)
        odds = np.full(len(space), share)
    else:
        odds = np.where(prior > 0, _CONFIDENCE, 1.0 - _CONFIDENCE)
    return odds ** (1.0 / steps)
