"""Screening: the agent's proposal is improved by a reward predictor before it is evaluated.

Evaluations are few and dear, predictions many and cheap. So the levels near what the agent proposes
and near the best records are searched, by mutations within the budget, for a variant whose loss may
be low: predicted mean minus a random multiple of its uncertainty, as in randomised upper confidence
bounds (Berk et al., "Randomised Gaussian process upper confidence bound", IJCAI 2020). A random
multiple lets workers that know the same try different variants, and no schedule is needed: one that
falls did no better on four targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.active_set import BOUND, ActiveSets
from rl_compress.searchers.known import Basis, Known, best_within, keys_of, within
from rl_compress.searchers.prior import least_loss
from rl_compress.searchers.reward_predictor import Floats, Kernel, RewardPredictor
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.searchers.thinned import Thinned
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels, SearchSpace

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
"""Mean of the multiple of the uncertainty, in the lower confidence bound of the loss."""
_BEST, _RESTARTS = 8, 2
"""Records, and random restarts, that mutations start from."""
_GENERATIONS, _MUTATIONS, _SURVIVORS = 5, 250, 20
_NEARBY_TRIES = 50
"""Mutations tried where all that is promising is known."""
_CHANGES = (0.1, 0.4, 0.3, 0.2)
"""How often a mutation changes one level, two, and so on: mostly two, one down and one up."""
_STEPS_ACROSS = 3
"""A mutation moves a level by at most a third of all, mostly by less."""


def _first_of_equal(rows: Levels) -> npt.NDArray[np.int64]:
    """Return where each distinct row is first, in the rows' own order."""
    # Of equal keys the one written last, which is the first, stands.
    first = dict(zip(reversed(keys_of(rows)), reversed(range(len(rows))), strict=True))
    return np.sort(np.fromiter(first.values(), dtype=np.int64))


class Screening:
    """Chooses what to evaluate next, near a proposal and near the best so far."""

    def __init__(
        self,
        space: SearchSpace,
        cost_function: CostFunction,
        curves: SensitivityCurves,
        original_reward: float,
        bound: int = BOUND,
    ) -> None:
        """Keep the problem.

        Args:
            space: The dimensions.
            cost_function: Exact costs of levels.
            curves: What each dimension's compression costs alone.
            original_reward: Reward of the uncompressed target.
            bound: Records up to which all are learned from.
        """
        self._space, self._costs, self._sets = space, cost_function, ActiveSets(bound)
        self._coarse = Thinned(space, _LEVELS, cost_function)
        self._losses = curves.loss_tables(self._coarse.space)
        self._original = original_reward
        self._predictor = RewardPredictor(self._coarse.space, curves)
        self._fitted = np.zeros((0, 0), dtype=np.int64)
        self._tuned: tuple[int, Kernel] | None = None
        self._top = self._coarse.space.full
        self._settled: set[bytes] = set()
        self._settled_of: Known | None = None
        self._num_settled = 0

    def improve(
        self,
        proposal: Levels,
        budget: Budget,
        known: Known,
        rng: np.random.Generator,
        *,
        curiosity: float | None = None,
    ) -> Levels:
        """Return what to evaluate instead of a proposal.

        Args:
            proposal: Within the budget, shape ``(D,)``.
            budget: Upper bounds.
            known: The records so far, of this or of other budgets.
            rng: Draws mutations and curiosity.
            curiosity: The multiple of the uncertainty that counts for a variant; 0 where what is
                returned is to be the best, not the most instructive one. By default drawn.

        Returns:
            Levels within the budget that are not among the records, unless there seem to be
            no others.
        """
        if len(known) < _FIRST:
            perturbed = self._perturbed_prior(budget, rng)
            return self._random_restart(budget, rng) if perturbed in known else perturbed
        self._learn(known, budget)
        multiple = rng.exponential(_CURIOSITY) if curiosity is None else curiosity

        def lower_bound(levels: Levels) -> Floats:
            mean, deviation = self._predictor.predict(levels)
            return mean - multiple * deviation

        levels = self._coarse.nearest(self._starts(proposal, budget, known, rng))
        bounds, many = np.zeros(0), len(known) > self._sets.bound
        taken = set(keys_of(self._predictor.levels))
        if many and known.basis is not None:
            self._note_settled(known, known.basis.size)
        for _ in range(_GENERATIONS):
            children = self._mutated(levels, rng)
            children = children[within(children, budget, self._coarse)]
            levels = np.concatenate([levels, children])
            first = _first_of_equal(levels)
            bounds = np.concatenate([bounds, lower_bound(levels[len(bounds) :])])[first]
            levels = levels[first]
            if many:
                # What is known has parents enough; were it to survive, nothing else would.
                keys = keys_of(levels)
                new = np.array([key not in taken and key not in self._settled for key in keys])
                levels, bounds = (levels[new], bounds[new]) if new.any() else (levels, bounds)
            best = np.argsort(bounds, kind="stable")[:_SURVIVORS]
            levels, bounds = levels[best], bounds[best]
        for key, row in zip(keys_of(levels), levels, strict=True):
            if key in taken:
                continue
            filled = self._filled(row, budget)
            if filled not in known:
                return filled
        return proposal if proposal not in known else self._nearby(levels, budget, known, rng)

    def _nearby(
        self, levels: Levels, budget: Budget, known: Known, rng: np.random.Generator
    ) -> Levels:
        """Return a variant not known, near some that are, or a random restart."""
        for row in self._mutated(levels, rng)[:_NEARBY_TRIES]:
            filled = self._filled(row, budget)
            if filled not in known:
                return filled
        return self._random_restart(budget, rng)

    def _note_settled(self, known: Known, size: int) -> None:
        """Keep the keys of the thinned levels of the first records, which do not change."""
        if self._settled_of is not known or self._num_settled > size:
            self._settled, self._settled_of, self._num_settled = set(), known, 0
        if len(rows := known.levels[self._num_settled : size]):
            self._settled.update(keys_of(self._coarse.nearest(rows)))
            self._num_settled = size

    def basis(self, known: Known, budgets: Sequence[Budget]) -> Basis:
        """Learn from the first of many records, for all who know them.

        What is learned depends on the records and their order alone.

        Args:
            known: More records than are all learned from.
            budgets: What variants are sought for.
        """
        size = self._sets.settled(len(known))
        tuned = self._sets.tuned(size)
        if self._tuned is None or self._tuned[0] != tuned:
            levels, rewards = self._active(known, tuned, budgets)
            self._tuned = tuned, self._predictor.likeliest(levels, self._losses_of(rewards))
        first, its_rewards = known.levels[:size], known.rewards[:size]
        best = {}
        for budget in budgets:
            order = best_within(first, its_rewards, budget, self._costs, _BEST)
            best[budget] = first[order], its_rewards[order]
        levels, rewards = self._active(known, size, budgets)
        return Basis(size, self._predictor.show(levels, self._tuned[1]), rewards, best)

    def _active(self, known: Known, size: int, budgets: Sequence[Budget]) -> tuple[Levels, Floats]:
        """Return the thinned levels and the rewards of the active set of the first records."""
        levels, rewards = known.levels[:size], known.rewards[:size]
        rows = self._sets.choose(levels, rewards, budgets, self._space, self._costs)
        return self._coarse.nearest(levels[rows]), rewards[rows]

    def _learn(self, known: Known, budget: Budget) -> None:
        """Bring the predictor to what is known."""
        if len(known) <= self._sets.bound:
            if not np.array_equal(self._fitted, known.levels):
                self._fitted = known.levels.copy()
                losses = self._losses_of(known.rewards)
                self._predictor.fit(self._coarse.nearest(self._fitted), losses)
            return
        basis = known.basis
        if (
            basis is None
            or len(known) - basis.size >= 2 * self._sets.step
            or budget not in basis.best
        ):
            known.basis = basis = self.basis(known, [budget])
        self._predictor.take(basis.fit, self._coarse.nearest(known.levels[basis.size :]))
        rewards = np.concatenate([basis.rewards, known.rewards[basis.size :]])
        self._predictor.aim(self._losses_of(rewards))

    def _losses_of(self, rewards: Floats) -> Floats:
        """Return losses, counted from above all rewards.

        That is the uncompressed target's reward, unless what a variant saves is rewarded too.
        """
        best = float(rewards.max())
        return max(self._original, best + _ROOM * (best - float(np.median(rewards)))) - rewards

    def _perturbed_prior(self, budget: Budget, rng: np.random.Generator) -> Levels:
        factors = np.exp(rng.normal(0.0, _WRONG_BY, len(self._losses)))
        wrong = [loss * factor for loss, factor in zip(self._losses, factors, strict=True)]
        return self._filled(least_loss(wrong, budget, self._coarse.space, self._coarse), budget)

    def _starts(
        self, proposal: Levels, budget: Budget, known: Known, rng: np.random.Generator
    ) -> Levels:
        best, _ = known.best(budget, self._costs, _BEST)
        restarts = [self._random_restart(budget, rng) for _ in range(_RESTARTS)]
        return np.stack([proposal, *best, *restarts])

    def _random_restart(self, budget: Budget, rng: np.random.Generator) -> Levels:
        keep = rng.uniform(0.1, 1.0, len(self._top))
        return project(keep, budget, self._space, self._costs)

    def _mutated(self, parents: Levels, rng: np.random.Generator) -> Levels:
        """Return thinned levels, a few of them moved: the first of several down, the second up."""
        children = parents[rng.integers(len(parents), size=_MUTATIONS)]
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

    def _filled(self, levels: Levels, budget: Budget) -> Levels:
        """Return the levels of the full space that fill the budget up from thinned ones."""
        keep = self._coarse.space.kept(levels)
        return project(keep, budget, self._space, self._costs)
