"""Evolution by level switches, after EvoPress (Sieberling et al., 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.space.mask_projection import decides_masks
from rl_compress.space.search_space import Levels

_OFFSPRING = 8
"""Full evaluations in a generation. EvoPress makes 128 offspring and lets 16 and then 4 of them
into rounds with more tokens (2k, 16k, 131k), which costs what 8 evaluations on all tokens do."""

_SWITCHES = 3
"""A mutation makes ``min(U{1..3}, U{1..3})`` switches, as published: mostly one."""

_STEPS_ACROSS = 4
"""A step is at most a quarter of a dimension's levels. EvoPress has few levels and steps by one;
among 64 widths a step of one would change nothing that can be measured."""

_FLIPPED = 0.05
"""With masks, the share of units that a mutation flips."""

_TRIES = 20
"""Mutations drawn for one that was not proposed before."""


class Evolution(Searcher):
    """(1 + 8) evolution: some dimensions a step up, others down until the budget holds again.

    In EvoPress a switch lowers one layer and raises another of the same size. Here costs differ,
    so as many dimensions are lowered, drawn at random among those that the exceeded bounds depend
    on, as the raised ones make necessary; the projection gives back what the last one freed.
    """

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Start from one vector; the seed is that of the mutations."""
        super().__init__(problem, config)
        self._space, self._budget, self._costs = problem.space, problem.budget, problem.costs
        self._masks = decides_masks(problem.space)
        self._parent = self._start()
        self._parent_reward = -np.inf
        self._top = problem.space.full
        self._rng = np.random.default_rng(problem.seed)
        self._begun = False
        self._brood: list[tuple[float, Keep]] = []
        self._proposed: set[bytes] = set()

    def _start(self) -> Keep:
        """Return the first parent: the uniform vector at the budget, as published."""
        return np.full(len(self._space), 1.0 if self._masks else 0.5)

    def ask(self) -> Keep:
        """Return the start, the first time, then mutations of the parent."""
        if not self._begun:
            self._begun = True
            return self._parent
        for _ in range(_TRIES):
            keep = self._flipped() if self._masks else self._switched()
            if keep.tobytes() not in self._proposed:
                break
        self._proposed.add(keep.tobytes())
        return keep

    def tell(self, keep: Keep, reward: float) -> None:
        """Select the best of parent and offspring once a generation is complete."""
        self._proposed.add(keep.tobytes())
        self._brood.append((reward, keep))
        if len(self._brood) == _OFFSPRING or self._parent_reward == -np.inf:
            reward, keep = max(self._brood, key=lambda pair: pair[0])
            # Of equals the offspring goes on, so that plateaus are crossed.
            if reward >= self._parent_reward and reward > -np.inf:
                self._parent_reward, self._parent = reward, keep
            self._brood = []

    def _flipped(self) -> Keep:
        changed = self._rng.random(len(self._parent)) < _FLIPPED
        changed[self._rng.integers(len(self._parent))] = True
        return np.where(changed, 1.0 - self._parent, self._parent)

    def _switched(self) -> Keep:
        # A parent that was not carried out yet, because it failed, may be between two levels.
        levels = self._space.nearest(self._parent * self._space.full_amounts)
        count = int(self._rng.integers(1, _SWITCHES + 1, size=2).min())
        raisable = np.flatnonzero(levels < self._top)
        raised = self._rng.permutation(raisable)[:count]
        if not len(raised):  # nothing is compressed: only cuts are left
            cut = self._rng.permutation(np.flatnonzero(self._top > 0))[:count]
            levels[cut] = np.maximum(levels[cut] - self._steps(cut), 0)
            return self._space.kept(levels)
        levels[raised] = np.minimum(levels[raised] + self._steps(raised), self._top[raised])
        others = np.setdiff1d(np.flatnonzero(levels > 0), raised)
        return self._space.kept(self._cut_to_budget(levels, others))

    def _cut_to_budget(self, levels: Levels, pool: npt.NDArray[np.int64]) -> Levels:
        """Lower random dimensions of a pool until the budget holds or the pool is empty."""
        costs = self._costs.costs(levels)
        while len(pool) and not self._budget.admits(costs):
            chosen = self._rng.choice(pool, size=1)
            lower = levels.copy()
            lower[chosen] = np.maximum(lower[chosen] - self._steps(chosen), 0)
            after = self._costs.costs(lower)
            if any(costs[c] > bound and after[c] < costs[c] for c, bound in self._budget.bounds):
                levels, costs = lower, after
                pool = pool[levels[pool] > 0]
            else:
                pool = pool[pool != chosen]  # no exceeded bound depends on it
        return levels

    def _steps(self, dimensions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        longest = np.maximum(1, (self._top[dimensions] + 1) // _STEPS_ACROSS)
        return self._rng.integers(1, longest + 1)


class GreedyEvolution(Evolution):
    """Evolution that starts from the prior."""

    needs = "curves"

    def _start(self) -> Keep:
        curves = self.problem.curves
        assert curves is not None, "it is said to need them"
        return self._space.kept(greedy_levels(curves, self._budget, self._space, self._costs))
