"""The prior alone, and other vectors that the sensitivity curves recommend nearly as much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels

_TIGHTER = 0.97
"""Factor from one budget to the next in the sweep below the budget."""
_SPREAD = 0.2
"""Standard deviation of the logarithm by which the losses of a dimension are doubted, at first."""
_WIDER = 1.2
"""Factor of the spread where doubts led to nothing new."""
_WIDEST = 3.0
_TRIES = 30
"""Doubts in a row that lead to nothing new, after which the budget counts as exhausted."""


class Greedy(Searcher):
    """First the prior; then in turn the prior of doubted curves, and of a tighter budget.

    The losses of single dimensions do not really add up. A doubt multiplies all losses of each
    dimension by a random factor, and what is best then differs from the prior where the curves
    themselves hardly decide.
    """

    fill = False
    needs = "curves"

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Keep what the prior needs; the seed is that of the doubts."""
        super().__init__(problem, config)
        assert problem.curves is not None, "it is said to need them"
        self._space, self._curves = problem.space, problem.curves
        self._budget, self._costs = problem.budget, problem.costs
        self._rng = np.random.default_rng(problem.seed)
        self._proposed: set[bytes] = set()
        self._remaining = self._in_turn()

    def ask(self) -> Keep | None:
        """Return the next vector that was not returned before."""
        levels = next(self._remaining, None)
        return None if levels is None else self._space.kept(levels)

    def _in_turn(self) -> Iterator[Levels]:
        prior = self._prior(self._curves, self._budget)
        self._proposed.add(prior.tobytes())
        yield prior
        sources = [self._of_doubted_curves(), self._of_tighter_budgets()]
        while sources:
            for source in tuple(sources):
                levels = next(source, None)
                if levels is None:
                    sources.remove(source)
                else:
                    yield levels

    def _of_tighter_budgets(self) -> Iterator[Levels]:
        smallest = self._costs.costs(self._space.smallest)
        budget = self._budget
        while True:
            budget = Budget(tuple((cost, bound * _TIGHTER) for cost, bound in budget.bounds))
            if not budget.bounds or not budget.admits(smallest):
                return
            levels = self._prior(self._curves, budget)
            if self._is_new(levels):
                yield levels

    def _of_doubted_curves(self) -> Iterator[Levels]:
        spread, tries = _SPREAD, 0
        while tries < _TRIES:
            factors = np.exp(self._rng.normal(0.0, spread, len(self._space)))
            levels = self._prior(_scaled(self._curves, factors.tolist()), self._budget)
            if self._is_new(levels):
                tries = 0
                yield levels
            else:
                tries += 1
                spread = min(spread * _WIDER, _WIDEST)

    def _prior(self, curves: SensitivityCurves, budget: Budget) -> Levels:
        return greedy_levels(curves, budget, self._space, self._costs)

    def _is_new(self, levels: Levels) -> bool:
        known = levels.tobytes() in self._proposed
        self._proposed.add(levels.tobytes())
        return not known


def _scaled(curves: SensitivityCurves, factors: list[float]) -> SensitivityCurves:
    """Return curves whose losses are multiplied by a factor for each dimension."""
    original = curves.original_score
    scores = tuple(
        tuple(original - factor * (original - score) for score in measured)
        for factor, measured in zip(factors, curves.scores, strict=True)
    )
    return dataclasses.replace(curves, scores=scores)
