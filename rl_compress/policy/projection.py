"""The projection: moves a wish onto the budget, so that every candidate meets it by construction.

The search never spends an evaluation on a variant that is too expensive, and the reward needs no
penalty. The method is progressive filling, the way in which bandwidth is shared fairly (Bertsekas
and Gallager, "Data Networks", 1992, section 6.5.2): all dimensions rise from their smallest level
in proportion to the wish; one that a bound stops stays where it is, the others go on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.policy.budget import Budget, CostFunction
from rl_compress.policy.search_space import SearchSpace, Widths

_PROBES = 32
"""Vectors whose costs are asked for at once when looking for the longest part that fits."""

_SMALLEST_KEEP = 1e-6

_ROUNDING = 1e-12
"""Real costs, such as latency, stay this far below their bound, relative to it: sums may differ in
their last digits between one vector and a batch of many, and one vector alone must be within."""


def project(
    keep: npt.NDArray[np.floating],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
    *,
    fill: bool = True,
) -> Widths:
    """Move fractions kept onto the budget, all dimensions in proportion.

    1. The fractions are scaled by the largest common factor that the budget admits, each rounded
       to the nearest allowed level. Without ``fill`` the factor is at most 1.
    2. Of the dimensions that rounding robbed, each is given its next level if that still fits,
       first the one whose loss is largest for the marginal cost of the level. Marginal costs are
       relative to what each bound has left, so that all bounds count alike.
    3. What is still left, such as bits that a bound on MACs does not limit, goes on rising in
       proportion until no dimension can.

    Allowed levels that the budget admits are returned as they are; with ``fill``, if no level can
    be raised.

    Args:
        keep: The wish: level by largest level of each dimension, in (0, 1], shape ``(D,)``.
        budget: Upper bounds; must be feasible.
        space: Allowed levels.
        cost_function: Exact costs of levels; raising a level must not lower a cost.
        fill: Use up a budget that the wish leaves unused: no single level of the result can be
            raised to the next. Otherwise no level of it can be raised towards the rounded wish.

    Returns:
        Allowed levels within the budget, shape ``(D,)``.
    """
    wish = np.clip(np.asarray(keep, dtype=np.float64), _SMALLEST_KEEP, 1.0) * space.num_units
    steps, factors = _Steps.towards(wish, space, fill)
    raising = _Raising(space.smallest_widths, budget, cost_function)
    taken = raising.raise_along(steps)
    if taken < len(steps):
        # The factor at which the next level would be due is the one that the budget stops.
        target = np.minimum(wish * factors[taken], space.num_units)
        rest = steps.of(slice(taken, None))
        raising.raise_each(_robbed_first(rest, target, raising, space.num_units))
        raising.raise_each(rest.of(rest.levels > raising.levels[rest.dimensions]))
    return raising.levels


@dataclass(frozen=True, slots=True)
class _Steps:
    """Raises of one dimension to its next level, in an order."""

    dimensions: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]

    @classmethod
    def towards(
        cls, wish: npt.NDArray[np.float64], space: SearchSpace, fill: bool
    ) -> tuple[_Steps, npt.NDArray[np.float64]]:
        """List the raises in the order in which a wish, scaled up from 0, is rounded to them.

        Returns:
            The steps, and the factor of the wish from which each of them is due.
        """
        dimensions, levels, midpoints = _all_steps(space)
        factors = midpoints / wish[dimensions]
        order = np.argsort(factors, kind="stable")
        if not fill:
            # Fractions of levels are levels up to rounding errors.
            order = order[: np.searchsorted(factors[order], 1.0 + 1e-12, side="right")]
        return cls(dimensions[order], levels[order]), factors[order]

    def __len__(self) -> int:
        return len(self.dimensions)

    def of(self, chosen: Any) -> _Steps:
        return _Steps(self.dimensions[chosen], self.levels[chosen])

    def next_ones(self) -> _Steps:
        """Return the first step of every dimension that has one."""
        _, first = np.unique(self.dimensions, return_index=True)
        return self.of(first)


@functools.lru_cache(maxsize=8)
def _all_steps(
    space: SearchSpace,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the dimension of every raise, its level, and the middle between that and the last."""
    counts = [len(group.widths) - 1 for group in space.groups]
    levels = [np.array(group.widths, dtype=np.int64) for group in space.groups]
    return (
        np.repeat(np.arange(len(space)), counts),
        np.concatenate([own[1:] for own in levels]),
        np.concatenate([(own[1:] + own[:-1]) / 2 for own in levels]),
    )


class _Raising:
    """Levels on their way up; they meet the budget at every moment."""

    def __init__(self, levels: Widths, budget: Budget, cost_function: CostFunction) -> None:
        self.levels = levels
        self.budget = budget
        self._batch = cost_function.batch

    def raise_along(self, steps: _Steps) -> int:
        """Take steps in their order until one does not fit.

        Returns:
            How many were taken.
        """
        taken, limit = 0, len(steps)  # `taken` steps fit, more than `limit` do not
        while taken < limit:
            stride = -(-(limit - taken) // _PROBES)
            probes = np.arange(limit, taken, -stride)[::-1]
            candidates = self._after(steps, taken, probes)
            fitting = _fit(self.budget, self._batch(candidates))
            # Costs do not fall, so what follows the first that does not fit does not fit either.
            count = len(probes) if fitting.all() else int(fitting.argmin())
            if count < len(probes):
                limit = int(probes[count]) - 1
            if count:
                self.levels, taken = candidates[count - 1], int(probes[count - 1])
        return taken

    def raise_each(self, steps: _Steps) -> None:
        """Take steps in their order, leaving out those of dimensions that do not fit any more."""
        while len(steps):
            upcoming = steps.next_ones()
            fitting = _fit(self.budget, self._batch(self.after_each(upcoming)))
            open_dimensions = np.zeros(len(self.levels), dtype=bool)
            open_dimensions[upcoming.dimensions[fitting]] = True
            steps = steps.of(open_dimensions[steps.dimensions])
            steps = steps.of(slice(self.raise_along(steps), None))

    def after_each(self, steps: _Steps) -> Widths:
        """Return the levels after each of the steps alone, shape ``(len(steps), D)``."""
        raised = np.repeat(self.levels[None], len(steps), axis=0)
        raised[np.arange(len(steps)), steps.dimensions] = steps.levels
        return raised

    def marginal_costs(self, steps: _Steps) -> npt.NDArray[np.float64]:
        """Return what each step costs, by what each bound has left, shape ``(len(steps),)``."""
        costs = self._batch(np.concatenate([self.levels[None], self.after_each(steps)]))
        total = np.zeros(len(steps))
        for cost, bound in self.budget.bounds:
            now, after = float(costs[cost][0]), costs[cost][1:].astype(np.float64)
            total += (after - now) / max(bound - now, 1e-9 * bound)
        return total

    def _after(self, steps: _Steps, taken: int, counts: npt.NDArray[np.int64]) -> Widths:
        """Return the levels after numbers of steps, of which some are taken already."""
        raised = np.empty((len(counts), len(self.levels)), dtype=np.int64)
        last = self.levels
        for row, count in zip(raised, counts, strict=True):
            row[:] = last
            part = slice(taken, count)
            # Of several steps of one dimension the last, which is the highest, stands.
            row[steps.dimensions[part]] = steps.levels[part]
            last, taken = row, count
        return raised


def _robbed_first(
    steps: _Steps, target: npt.NDArray[np.float64], raising: _Raising, units: Widths
) -> _Steps:
    """Return the next step of each dimension below its target, in the order of giving back."""
    upcoming = steps.next_ones()
    own = upcoming.dimensions
    shortfall = (target[own] - raising.levels[own]) / units[own]
    robbed = shortfall > 0
    upcoming, shortfall = upcoming.of(robbed), shortfall[robbed]
    worth = shortfall / np.maximum(raising.marginal_costs(upcoming), 1e-12)
    return upcoming.of(np.argsort(-worth, kind="stable"))


def _fit(budget: Budget, costs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Say which vectors of a batch are within every bound, shape ``(N,)``."""
    fitting = np.ones(len(next(iter(costs.values()))), dtype=bool)
    for cost, bound in budget.bounds:
        exact = np.issubdtype(costs[cost].dtype, np.integer)
        fitting &= costs[cost] <= (bound if exact else bound * (1.0 - _ROUNDING))
    return fitting
