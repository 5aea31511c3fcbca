from __future__ import annotations

import numpy as np
from looped_batch import LoopedBatch

from rl_compress.searchers.baselines.greedy import Greedy
from rl_compress.searchers.prior import additive_loss, greedy_widths
from rl_compress.searchers.searcher import SearchProblem
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.variants.compressor import Compressor


def _asked(greedy: Greedy, space: SearchSpace, count: int) -> list[Widths]:
    asked: list[Widths] = []
    while len(asked) < count and (keep := greedy.ask()) is not None:
        asked.append((keep * space.num_units).round().astype(np.int64))
    return asked


def test_greedy_begins_with_the_prior(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves
) -> None:
    space, costs = compressor.space, compressor.costs
    first = _asked(Greedy(SearchProblem(space, budget, costs, curves=curves)), space, 1)[0]
    assert first.tolist() == greedy_widths(curves, budget, space, costs).tolist()


def test_greedy_goes_on_with_other_good_vectors_and_tighter_budgets(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves
) -> None:
    space, costs = compressor.space, compressor.costs
    asked = _asked(Greedy(SearchProblem(space, budget, costs, curves=curves)), space, 21)
    assert len({tuple(widths) for widths in asked}) == 21
    assert all(budget.admits(costs.costs(widths)) for widths in asked)
    spent = [costs.costs(widths)["macs"] for widths in asked[2::2]]
    bound = budget.as_dict()["macs"]
    assert all(cost <= bound * 0.97**step for step, cost in enumerate(spent, start=1))
    # What doubts lead to loses less than what random vectors at the budget would.
    prior = additive_loss(curves, asked[0])
    near = [additive_loss(curves, widths) for widths in asked[1:10:2]]
    assert prior <= min(near) + 1e-9
    assert np.median(near) < 2 * prior


def test_greedy_ends_when_it_knows_of_nothing_else() -> None:
    class Costs(LoopedBatch):
        def costs(self, widths: Widths) -> dict[str, int]:
            return {"macs": int(widths.sum())}

    space = SearchSpace(tuple(GroupChoices(name, 3, (1, 2, 3)) for name in "ab"))
    curves = SensitivityCurves(("a", "b"), ((3, 1), (3, 1)), ((0.0, -1.0), (0.0, -2.0)))
    greedy = Greedy(SearchProblem(space, Budget((("macs", 4.0),)), Costs(), curves=curves))
    asked = [tuple(widths.tolist()) for widths in _asked(greedy, space, 100)]
    assert len(asked) == len(set(asked))
    assert {(1, 3), (1, 1)} <= set(asked)
    assert greedy.ask() is None
