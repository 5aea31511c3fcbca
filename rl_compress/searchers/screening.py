"""Screening: the agent's proposal is improved by a reward predictor before it is evaluated.

Evaluations are few and dear, predictions many and cheap. So the levels near what the agent proposes
and near the best records are searched, by mutations within the budget, for a variant whose loss may
be low: predicted mean minus a random multiple of its uncertainty, as in randomised upper confidence
bounds (Berk et al., "Randomised Gaussian process upper confidence bound", IJCAI 2020). A random
multiple lets workers that know the same try different variants, and no schedule is needed: one that
falls did no better on four targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.prior import least_loss
from rl_compress.searchers.reward_predictor import Floats, RewardPredictor
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.projection import project
from rl_compress.space.search_space import SearchSpace, Widths

_FIRST = 8
"""Records from which on there is something to learn from; before, priors of wrong curves are
tried, which differ where the curves are least to be trusted."""
_WRONG_BY = 1.0
"""Standard deviation of the logarithm of the factors that the curves are taken to be wrong by."""

_LEVELS = 64
"""Levels of a dimension that are chosen from; in the end, all are filled up from. On a ResNet-50,
some of whose layers have 1844, a prior of wrong curves takes .27 s instead of 2.5 s, and what the
curves predict is .4 % worse."""

_ROOM = 0.5
"""What is taken to be above the best reward, as a share of how far it is above the median.

With little room the logarithm of the best losses tells more of the room than of the variants. That
happens where recalibration costs the uncompressed target more than its variants.
"""

_CURIOSITY = 3.0
"""Mean of the multiple of the uncertainty."""
_BEST, _STRANGERS = 8, 2
"""Records, and random variants, that mutations start from."""
_GENERATIONS, _MUTATIONS, _SURVIVORS = 5, 250, 20
_CHANGES = (0.1, 0.4, 0.3, 0.2)
"""How often a mutation changes one level, two, and so on: mostly two, one down and one up."""
_STEPS_ACROSS = 3
"""A mutation moves a level by at most a third of all, mostly by less."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was measured, as a worker learns from it."""

    widths: Widths
    """Levels, shape ``(N, D)``."""
    rewards: Floats
    """Shape ``(N,)``."""

    @classmethod
    def nothing(cls) -> Known:
        """Return no records."""
        return cls(np.zeros((0, 0), dtype=np.int64), np.zeros(0))

    @classmethod
    def of(cls, records: Sequence[EvaluationRecord], space: SearchSpace) -> Known:
        """Return what records of a space tell."""
        if not records:
            return cls.nothing()
        return cls(
            np.stack([space.widths_of(record.realised_policy()) for record in records]),
            np.array([record.reward for record in records]),
        )

    def within(self, budget: Budget, cost_function: CostFunction) -> Known:
        """Return the records within a budget; others may be of looser ones."""
        if not len(self.widths):
            return self
        fits = _within(self.widths, budget, cost_function)
        return Known(self.widths[fits], self.rewards[fits])

    def with_others(self, others: Known) -> Known:
        """Return these records and those of others that are not among them."""
        seen = set(_keys(self.widths))
        new = [index for index, key in enumerate(_keys(others.widths)) if key not in seen]
        if not new:
            return self
        if not seen:
            return others
        return Known(
            np.concatenate([self.widths, others.widths[new]]),
            np.concatenate([self.rewards, others.rewards[new]]),
        )

    def best(self, otherwise: Widths) -> Widths:
        """Return the levels with the highest reward."""
        return self.widths[int(np.argmax(self.rewards))] if len(self.rewards) else otherwise


Records = Callable[[], Known]


def _keys(rows: Widths) -> list[bytes]:
    """Return what tells rows apart, far quicker than row by row."""
    if not rows.size:
        return []
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    keys: list[Any] = whole.ravel().tolist()
    return keys


def _first_of_equal(rows: Widths) -> npt.NDArray[np.int64]:
    """Return where each distinct row is first, in the rows' own order."""
    # Of equal keys the one written last, which is the first, stands.
    first = dict(zip(reversed(_keys(rows)), reversed(range(len(rows))), strict=True))
    return np.sort(np.fromiter(first.values(), dtype=np.int64))


def _within(widths: Widths, budget: Budget, cost_function: CostFunction) -> npt.NDArray[np.bool_]:
    costs = cost_function.batch(widths)
    return np.logical_and.reduce([costs[cost] <= bound for cost, bound in budget.bounds])


class Screening:
    """Chooses what to evaluate next, near a proposal and near the best so far."""

    def __init__(
        self,
        space: SearchSpace,
        cost_function: CostFunction,
        curves: SensitivityCurves,
        original_reward: float,
    ) -> None:
        """Keep the problem.

        Args:
            space: Allowed levels.
            cost_function: Exact costs of levels.
            curves: What each dimension's compression costs alone.
            original_reward: Reward of the uncompressed target.
        """
        self._space, self._costs = space, cost_function
        self._coarse = space.thinned(_LEVELS)
        self._losses = [curves.loss_table(i, g.widths) for i, g in enumerate(self._coarse.groups)]
        self._original = original_reward
        self._predictor = RewardPredictor(self._coarse, curves)
        self._fitted: Known | None = None
        self._sifted: tuple[Known, Budget, Known] | None = None
        self._top = np.array([len(group.widths) - 1 for group in self._coarse.groups])
        self._dimensions = np.arange(len(space))
        self._levels = np.zeros((len(space), int(self._top.max()) + 1), dtype=np.int64)
        for row, group in zip(self._levels, self._coarse.groups, strict=True):
            row[: len(group.widths)] = group.widths

    def improve(
        self,
        proposal: Widths,
        budget: Budget,
        known: Known,
        rng: np.random.Generator,
        *,
        curiosity: float | None = None,
    ) -> Widths:
        """Return what to evaluate instead of a proposal.

        Args:
            proposal: Allowed levels within the budget, shape ``(D,)``.
            budget: Upper bounds.
            known: The records so far, of this or of other budgets.
            rng: Draws mutations and curiosity.
            curiosity: The multiple of the uncertainty that counts for a variant; 0 where what is
                returned is to be the best, not the most instructive one. By default drawn.

        Returns:
            Allowed levels within the budget that are not among the records, unless there seem to be
            no others.
        """
        measured = set(_keys(known.widths))
        if len(known.widths) < _FIRST:
            wrong = self._wrong_prior(budget, rng)
            return wrong if wrong.tobytes() not in measured else self._stranger(budget, rng)
        if self._fitted is None or not np.array_equal(self._fitted.widths, known.widths):
            self._predictor.fit(known.widths, self._ceiling(known) - known.rewards)
            self._fitted = known
        multiple = rng.exponential(_CURIOSITY) if curiosity is None else curiosity

        def hope(places: Widths) -> Floats:
            mean, deviation = self._predictor.predict(places)
            return mean - multiple * deviation

        places = self._predictor.positions(self._starts(proposal, budget, known, rng))
        hopes = np.zeros(0)
        for _ in range(_GENERATIONS):
            children = self._mutated(places, rng)
            children = children[_within(self._at(children), budget, self._costs)]
            places = np.concatenate([places, children])
            first = _first_of_equal(places)
            hopes = np.concatenate([hopes, hope(places[len(hopes) :])])[first]
            places = places[first]
            best = np.argsort(hopes, kind="stable")[:_SURVIVORS]
            places, hopes = places[best], hopes[best]
        taken = set(_keys(self._predictor.places))
        for key, widths in zip(_keys(places), self._at(places), strict=True):
            if key in taken:
                continue
            filled = self._filled(widths, budget)
            if filled.tobytes() not in measured:
                return filled
        return proposal

    def affordable(self, known: Known, budget: Budget) -> Known:
        """Return the records within a budget; it is asked for twice for each proposal."""
        if self._sifted is None or self._sifted[0] is not known or self._sifted[1] is not budget:
            self._sifted = known, budget, known.within(budget, self._costs)
        return self._sifted[2]

    def _ceiling(self, known: Known) -> float:
        """Return what losses are counted from, above all rewards.

        It is the uncompressed target's reward, unless what a variant saves is rewarded too.
        """
        best = float(known.rewards.max())
        return max(self._original, best + _ROOM * (best - float(np.median(known.rewards))))

    def _wrong_prior(self, budget: Budget, rng: np.random.Generator) -> Widths:
        factors = np.exp(rng.normal(0.0, _WRONG_BY, len(self._losses)))
        wrong = [loss * factor for loss, factor in zip(self._losses, factors, strict=True)]
        return self._filled(least_loss(wrong, budget, self._coarse, self._costs), budget)

    def _starts(
        self, proposal: Widths, budget: Budget, known: Known, rng: np.random.Generator
    ) -> Widths:
        affordable = self.affordable(known, budget)
        order = np.argsort(-affordable.rewards, kind="stable")
        strangers = [self._stranger(budget, rng) for _ in range(_STRANGERS)]
        return np.stack([proposal, *affordable.widths[order[:_BEST]], *strangers])

    def _stranger(self, budget: Budget, rng: np.random.Generator) -> Widths:
        keep = rng.uniform(0.1, 1.0, len(self._top))
        return project(keep, budget, self._space, self._costs)

    def _mutated(self, places: Widths, rng: np.random.Generator) -> Widths:
        """Return places with a few levels moved, the first of several down, the second up."""
        children = places[rng.integers(len(places), size=_MUTATIONS)]
        counts = 1 + np.searchsorted(np.cumsum(_CHANGES), rng.random(_MUTATIONS), side="right")
        order, far, side = rng.random((3, *children.shape))
        # The dimensions that are moved: the ranks of the first few of as many random numbers.
        order = np.ascontiguousarray(order.T)
        smaller = order < order[: len(_CHANGES), None]
        moved = np.add.reduce(smaller.view(np.uint8), axis=1, dtype=np.intp)
        which, rows = np.nonzero(np.arange(len(moved))[:, None] < counts)
        columns = moved[which, rows]
        top = self._top[columns]
        steps = far[rows, columns] ** 2 * np.maximum(top / _STEPS_ACROSS, 1.0)
        down = np.where((counts[rows] > 1) & (which < 2), which == 0, side[rows, columns] < 0.5)
        steps = 1 + steps.astype(np.int64)
        levels = children[rows, columns] + np.where(down, -steps, steps)
        children[rows, columns] = np.minimum(np.maximum(levels, 0), top)
        return children

    def _filled(self, widths: Widths, budget: Budget) -> Widths:
        return project(widths / self._space.num_units, budget, self._space, self._costs)

    def _at(self, places: Widths) -> Widths:
        return self._levels[self._dimensions, places]
