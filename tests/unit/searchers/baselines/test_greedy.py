from __future__ import annotations

import numpy as np
from looped_batch import LoopedBatch
from problems import toy_problem

from rl_compress.searchers.baselines.greedy import Greedy
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace
from rl_compress.variants.compressor import Compressor


def _asked(greedy: Greedy, space: SearchSpace, count: int) -> list[Levels]:
    asked: list[Levels] = []
    while len(asked) < count and (keep := greedy.ask()) is not None:
        asked.append(space.nearest(keep * space.full_amounts))
    return asked


def test_greedy_begins_with_the_prior(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves
) -> None:
    space, costs = compressor.space, compressor.costs
    first = _asked(Greedy(toy_problem(space, budget, costs, curves=curves)), space, 1)[0]
    assert first.tolist() == greedy_levels(curves, budget, space, costs).tolist()


def test_greedy_goes_on_with_other_good_vectors_and_tighter_budgets(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves
) -> None:
    space, costs = compressor.space, compressor.costs
    asked = _asked(Greedy(toy_problem(space, budget, costs, curves=curves)), space, 21)
    assert len({tuple(levels) for levels in asked}) == 21
    assert all(budget.admits(costs.costs(levels)) for levels in asked)
    spent = [costs.costs(levels)["macs"] for levels in asked[2::2]]
    bound = budget.as_dict()["macs"]
    assert all(cost <= bound * 0.97**step for step, cost in enumerate(spent, start=1))
    # What doubts lead to loses less than what random vectors at the budget would.
    tables = curves.loss_tables(space)
    losses = [sum(t[level] for t, level in zip(tables, own, strict=True)) for own in asked]
    prior, near = losses[0], losses[1:10:2]
    assert prior <= min(near) + 1e-9
    assert np.median(near) < 2 * prior


def test_greedy_ends_when_it_knows_of_nothing_else() -> None:
    class Costs(LoopedBatch):
        def of(self, amounts: Amounts) -> dict[str, int]:
            return {"macs": int(amounts.sum())}

    space = SearchSpace(tuple(Dimension(name, "channels", (1, 2, 3)) for name in "ab"))
    curves = SensitivityCurves(("a", "b"), ((3, 1), (3, 1)), ((0.0, -1.0), (0.0, -2.0)))
    greedy = Greedy(toy_problem(space, Budget((("macs", 4.0),)), Costs(space), curves=curves))
    asked = [tuple(space.amounts(levels).tolist()) for levels in _asked(greedy, space, 100)]
    assert len(asked) == len(set(asked))
    assert {(1, 3), (1, 1)} <= set(asked)
    assert greedy.ask() is None
