"""Proposals for a budget, of all that was not measured, without another search.

What was measured, for whichever budgets, tells the reward predictor what variants within a new one
are worth. The best is sought near the best known, without curiosity as long as that finds anything
new: little comes after that could make use of what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rl_compress.searchers.known import Known
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.screening import Screening
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import Levels, SearchSpace

MOST = 8
"""Variants that are proposed, each in the knowledge of those before."""

_SEED = 0
"""Of the mutations: the same records and budget give the same proposals."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A variant that may be the best within a budget."""

    name: str
    """What it is; proposals share theirs."""
    levels: Levels
    reward: float | None
    """None where it cannot be scored."""

    @property
    def worth(self) -> float:
        """Return the reward, the lowest there is if there is none."""
        return -np.inf if self.reward is None else self.reward


def proposals(
    space: SearchSpace,
    cost_function: CostFunction,
    budget: Budget,
    curves: SensitivityCurves,
    known: Known,
    original_reward: float,
    measure: Callable[[Levels], float | None],
) -> Iterator[Proposal]:
    """Propose, and measure, what may be the best within a budget.

    Args:
        space: The dimensions.
        cost_function: Exact costs of levels.
        budget: Upper bounds; must be feasible.
        curves: What each dimension's compression costs alone.
        known: What was measured, within this or other budgets; what is measured here is added.
        original_reward: Reward of the uncompressed target.
        measure: Returns a variant's reward; None where it cannot be scored.

    Yields:
        Up to :data:`MOST` variants within the budget that were not measured; first the prior, if it
        is among them.
    """
    prior = greedy_levels(curves, budget, space, cost_function)
    screening = Screening(space, cost_function, curves, original_reward)
    rng = np.random.default_rng(_SEED)

    def candidates() -> Iterator[tuple[str, Levels]]:
        yield "the prior", prior
        found, _ = known.best(budget, cost_function, 1)
        best = found[0] if len(found) else prior
        for curiosity in (0.0, None):
            levels = screening.improve(best, budget, known, rng, curiosity=curiosity)
            yield "the best proposal", levels

    for _ in range(MOST):
        new = next((one for one in candidates() if one[1] not in known), None)
        if new is None:
            return  # there seem to be no others
        name, levels = new
        asked = Proposal(name, levels, measure(levels))
        yield asked
        # What cannot be scored counts as the worst, so that nothing like it is proposed.
        worst = known.rewards.min(initial=original_reward)
        reward = worst if asked.reward is None else asked.reward
        known.add(levels[None], np.array([reward]))
