"""Baselines: searches without learning, under the same evaluator, budget and count.

A baseline proposes fractions kept (``ask``) and hears of the reward (``tell``). Candidates are
projected onto the budget as the agent's are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rl_compress.policy.budget import Budget, CostFunction
from rl_compress.policy.mask_projection import decides_masks
from rl_compress.policy.search_space import SearchSpace
from rl_compress.search.prior import greedy_widths
from rl_compress.search.sensitivity import SensitivityCurves

Keep = npt.NDArray[np.float64]
"""Fraction of units kept in each group, shape ``(num_groups,)``."""

_HALF = 0.5
"""With masks, the fraction kept from which a unit stays."""
_FLIPPED = 0.05
"""With masks, the share of units that a mutation flips."""

_TIGHTER = 0.97
"""Factor from one budget to the next in sweeps below the budget."""


class Baseline(Protocol):
    """A search that needs no gradient."""

    fill: bool
    """Whether candidates that leave budget unused are scaled up to it."""

    def ask(self) -> Keep | None:
        """Return the next candidate, or None when there is no other."""

    def tell(self, keep: Keep, reward: float) -> None:
        """Hear the reward of a candidate."""


class Uniform:
    """The same ratio everywhere: first at the budget, then at ever tighter ones."""

    fill = False

    def __init__(self, space: SearchSpace) -> None:
        """Start from the uncompressed target."""
        self._space = space
        self._keep = 1.0

    def ask(self) -> Keep | None:
        """Return the next, slightly narrower, uniform candidate."""
        keep = np.full(len(self._space), self._keep)
        if (keep * self._space.num_units < self._space.smallest_widths).all():
            return None
        if decides_masks(self._space) and self._keep < _HALF:
            return None  # a unit of its own is either kept or not
        self._keep *= _TIGHTER
        return keep

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""


class Random:
    """Independent uniform fractions for every group."""

    fill = True

    def __init__(self, space: SearchSpace, seed: int) -> None:
        """Seed the generator."""
        self._smallest = space.smallest_widths / space.num_units
        self._masks = decides_masks(space)
        self._rng = np.random.default_rng(seed)

    def ask(self) -> Keep:
        """Draw a candidate; of a mask first how dense it is."""
        keep = self._rng.uniform(self._smallest, 1.0)
        return (keep < self._rng.uniform()).astype(float) if self._masks else keep

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""


class Greedy:
    """The prior alone: at the budget, then at ever tighter ones."""

    fill = False

    def __init__(
        self,
        space: SearchSpace,
        curves: SensitivityCurves,
        budget: Budget,
        cost_function: CostFunction,
    ) -> None:
        """Keep what the prior needs."""
        self._space, self._curves, self._costs = space, curves, cost_function
        self._budget: Budget | None = budget

    def ask(self) -> Keep | None:
        """Return the prior for the next, slightly tighter, budget."""
        budget = self._budget
        smallest = self._costs.costs(self._space.smallest_widths)
        if budget is None or not budget.admits(smallest):
            return None
        widths = greedy_widths(self._curves, budget, self._space, self._costs)
        self._budget = Budget(tuple((cost, bound * _TIGHTER) for cost, bound in budget.bounds))
        return widths / self._space.num_units

    def tell(self, keep: Keep, reward: float) -> None:
        """Nothing is learned."""


class Evolution:
    """(1 + 8) evolution strategy from the uniform policy (as EvoPress, with real-valued steps)."""

    fill = True

    _OFFSPRING = 8
    _STEP = 0.1

    def __init__(self, space: SearchSpace, seed: int) -> None:
        """Start from the uniform policy."""
        self._masks = decides_masks(space)
        self._parent: Keep = np.full(len(space), 1.0 if self._masks else 0.5)
        self._parent_reward = -np.inf
        self._smallest = space.smallest_widths / space.num_units
        self._rng = np.random.default_rng(seed)
        self._asked = 0
        self._brood: list[tuple[float, Keep]] = []

    def ask(self) -> Keep:
        """Return the parent, the first time, then mutations of it."""
        self._asked += 1
        if self._asked == 1:
            return self._parent
        # A few groups change at a time, so that what is good in the parent survives.
        share = _FLIPPED if self._masks else 0.3
        changed = self._rng.random(len(self._parent)) < max(share, 1.0 / len(self._parent))
        changed[self._rng.integers(len(self._parent))] = True
        if self._masks:
            return np.where(changed, 1.0 - self._parent, self._parent)
        step = self._rng.normal(0.0, self._STEP, len(self._parent)) * changed
        return np.clip(self._parent + step, self._smallest, 1.0)

    def tell(self, keep: Keep, reward: float) -> None:
        """Select the best of parent and offspring once a brood is complete."""
        self._brood.append((reward, keep))
        if len(self._brood) == self._OFFSPRING or self._parent_reward == -np.inf:
            reward, keep = max(self._brood, key=lambda pair: pair[0])
            if reward > self._parent_reward:
                self._parent_reward, self._parent = reward, keep
            self._brood = []


def make_baseline(
    name: str,
    space: SearchSpace,
    budget: Budget,
    cost_function: CostFunction,
    curves: SensitivityCurves | None,
    seed: int,
) -> Baseline:
    """Return a baseline by name; ``greedy`` needs sensitivity curves."""
    if name == "greedy":
        assert curves is not None, "greedy reads the sensitivity curves"
        return Greedy(space, curves, budget, cost_function)
    seeded: dict[str, Callable[[SearchSpace, int], Baseline]] = {
        "random": Random,
        "evolution": Evolution,
    }
    return seeded[name](space, seed) if name in seeded else Uniform(space)
