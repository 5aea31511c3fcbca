"""The prior: the widths that the sensitivity curves alone recommend for a budget."""

from __future__ import annotations

import numpy as np

from rl_compress.policy.budget import Budget, CostFunction
from rl_compress.policy.search_space import SearchSpace, Widths
from rl_compress.search.sensitivity import SensitivityCurves


def greedy_widths(
    curves: SensitivityCurves, budget: Budget, space: SearchSpace, cost_function: CostFunction
) -> Widths:
    """Spend the smallest loss of score for each cost saved, until the budget is met.

    The losses of the groups are taken to add up. From the uncompressed target, groups are cut to
    measured widths, each time the one with the least additional loss for the excess over the budget
    that it removes; what the last cut overshot is then given back width by width, where it gains
    most.

    Args:
        curves: What each group's pruning costs alone.
        budget: Upper bounds; must be feasible.
        space: Allowed widths.
        cost_function: Exact costs of widths.

    Returns:
        Widths within the budget, shape ``(num_groups,)``.
    """
    tables = [
        np.array([curves.drop_at(index, width) for width in group.widths])
        for index, group in enumerate(space.groups)
    ]
    measured = [
        [group.widths.index(width) for width in widths]
        for group, widths in zip(space.groups, curves.widths, strict=True)
    ]
    position = [len(group.widths) - 1 for group in space.groups]

    def widths_at(positions: list[int]) -> Widths:
        return np.array(
            [group.widths[p] for group, p in zip(space.groups, positions, strict=True)],
            dtype=np.int64,
        )

    def moved(index: int, to: int) -> Widths:
        return widths_at([*position[:index], to, *position[index + 1 :]])

    while not budget.admits(current := cost_function.costs(widths_at(position))):
        cuts = []
        for index, table in enumerate(tables):
            for lower in (level for level in measured[index] if level < position[index]):
                saved = _excess_saved(budget, current, cost_function.costs(moved(index, lower)))
                if saved > 0:
                    cuts.append(((table[lower] - table[position[index]]) / saved, index, lower))
        _, index, lower = min(cuts)  # never empty: the budget is feasible
        position[index] = lower
    while True:
        gains = [
            (table[p] - table[p + 1], -index)
            for index, (table, p) in enumerate(zip(tables, position, strict=True))
            if p + 1 < len(table) and budget.admits(cost_function.costs(moved(index, p + 1)))
        ]
        if not gains:
            return widths_at(position)
        position[-max(gains)[1]] += 1


def _excess_saved(budget: Budget, before: dict[str, float], after: dict[str, float]) -> float:
    """Return how much of the excess over the bounds a step removes, each bound counting alike."""
    saved = 0.0
    for cost, bound in budget.bounds:
        if before[cost] > bound:
            saved += (before[cost] - after[cost]) / (before[cost] - bound)
    return saved
