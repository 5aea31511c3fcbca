"""Goals: the budgets that one agent is trained for, so that one search serves them all.

Each episode is played for one of them, which the observation shows. Where all of them bound the
same single cost, budgets between them are drawn too, evenly in the logarithm: the agent then meets
budgets that nobody listed. As in universal value functions (Schaul et al., "Universal Value
Function Approximators", ICML 2015) the goal is part of what the policy sees, and as in hindsight
experience replay (Andrychowicz et al., NeurIPS 2017) what was measured for one goal teaches about
all, here through the reward predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels

_STEPS = 4
"""Steps in the logarithm from one listed budget to the next, so three budgets between them."""
_LISTED = 0.75
"""Share of the episodes that are played for listed budgets, where there are others."""
_EVEN = 0.5
"""Share of the episodes that are dealt without a look at what references lose."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A budget with what goes with it."""

    budget: Budget
    prior: Levels | None
    """The prior within the budget, shape ``(D,)``; None for plain actions."""
    reference_reward: float
    """What an episode's reward is relative to."""
    share: float = 1.0
    """Share of the episodes that are played for it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A budget of :func:`drawn_budgets`."""

    budget: Budget
    between: tuple[int, int, float] | None = None
    """For a budget that is not listed the positions of the listed ones below and above it, and how
    far it is from one to the other in the logarithm."""


def drawn_budgets(listed: Sequence[Budget]) -> list[Drawn]:
    """Return the budgets that episodes are played for, the listed ones first.

    Args:
        listed: At least one.
    """
    found = []
    if len({budget.bounds[0][0] for budget in listed}) == 1 and all(
        len(budget.bounds) == 1 for budget in listed
    ):
        cost = listed[0].bounds[0][0]
        bounds = [budget.bounds[0][1] for budget in listed]
        for low, high in pairwise(sorted(range(len(bounds)), key=bounds.__getitem__)):
            for step in range(1, _STEPS):
                far = step / _STEPS
                bound = bounds[low] * (bounds[high] / bounds[low]) ** far
                found.append((Budget(((cost, bound),)), (low, high, far)))
    return [Drawn(budget) for budget in listed] + [
        Drawn(budget, between) for budget, between in found
    ]


def shares(drawn: Sequence[Drawn], losses: Sequence[float]) -> list[float]:
    """Return for which part of the episodes each budget is drawn.

    Listed budgets have more than those between them. Half of the episodes are dealt so, the others
    in proportion to the loss too: a tight budget has the most to gain, and from what is measured
    for it looser ones learn, which it does less from theirs.

    Args:
        drawn: The budgets.
        losses: What the reference of each loses against the uncompressed target.
    """
    listed = np.array([one.between is None for one in drawn])
    weights = np.where(listed, _LISTED / listed.sum(), (1.0 - _LISTED) / max((~listed).sum(), 1))
    even = weights / weights.sum()
    uneven = even * np.maximum(losses, 1e-6)
    return (_EVEN * even + (1.0 - _EVEN) * uneven / uneven.sum()).tolist()


def reference_rewards(
    drawn: Sequence[Drawn], measured: Sequence[float], original_reward: float
) -> list[float]:
    """Return what rewards are relative to, for every drawn budget.

    For a listed one it is what was measured there; between two of them the logarithm of the loss
    against the uncompressed target is taken to be linear in that of the bound.

    Args:
        drawn: The budgets.
        measured: Reward of the reference of each listed budget.
        original_reward: Reward of the uncompressed target.
    """
    losses = [max(original_reward - reward, 1e-6) for reward in measured]
    rewards = list(measured)
    for one in drawn[len(measured) :]:
        assert one.between is not None, "it is not listed"
        low, high, far = one.between
        rewards.append(original_reward - losses[low] ** (1.0 - far) * losses[high] ** far)
    return rewards


def pick(goals: Sequence[Goal], rng: np.random.Generator) -> Goal:
    """Draw a goal by the shares."""
    return goals[int(rng.choice(len(goals), p=[goal.share for goal in goals]))]
