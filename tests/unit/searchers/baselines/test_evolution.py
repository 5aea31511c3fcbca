from __future__ import annotations

import numpy as np
import pytest
from looped_batch import LoopedBatch
from problems import toy_problem

from rl_compress.searchers.baselines.evolution import Evolution, GreedyEvolution
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.projection import project
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace
from rl_compress.variants.compressor import Compressor

BITS = (2, 3, 4, 5, 6, 8)
SPACE = SearchSpace(
    (
        *(Dimension(f"w{i}", "channels", tuple(range(4, 33))) for i in range(3)),
        *(Dimension(f"b{i}", "channels", BITS) for i in range(3)),
        Dimension("fixed", "channels", (1,)),
    )
)


class Costs(LoopedBatch):
    """Size and bit operations of layers with weight bits; the MACs do not depend on bits."""

    def of(self, amounts: Amounts) -> dict[str, int]:
        channels, bits = amounts[:3], amounts[3:6]
        return {"macs": int((channels**2).sum()), "bops": int((channels**2 * bits).sum())}


COSTS = Costs(SPACE)


def _evolve(budget: Budget, count: int, start: np.ndarray | None = None) -> list[Levels]:
    """Return the mutations as proposed; all fail, so the start stays their parent."""
    evolution = Evolution(toy_problem(SPACE, budget, COSTS))
    if start is not None:
        evolution._parent = start
    evolution.tell(evolution.ask(), 0.0)
    found = []
    for _ in range(count):
        keep = evolution.ask()
        levels = SPACE.nearest(keep * SPACE.full_amounts)
        assert keep == pytest.approx(SPACE.kept(levels))
        found.append(levels)
        evolution.tell(keep, float("-inf"))
    return found


START = SPACE.nearest(np.array([16, 16, 16, 4, 4, 4, 1]))
BOPS = Budget((("bops", float(COSTS.costs(START)["bops"])),))


def test_mutations_switch_levels_within_the_budget() -> None:
    for levels in _evolve(BOPS, 100, SPACE.kept(START)):
        up, down = (levels > START).sum(), (levels < START).sum()
        assert 1 <= up <= 3
        assert down >= 1  # the parent uses all of the budget
        # What cuts of the others cannot make good is left to the projection.
        others = levels <= START
        exhausted = (levels == SPACE.smallest)[others].all()
        assert exhausted or BOPS.admits(COSTS.costs(levels))
        steps = np.abs(SPACE.amounts(levels) - SPACE.amounts(START))
        assert steps[3:6].max() <= 2 * down  # bits move by single levels
        assert levels[6] == 0


def test_what_no_exceeded_bound_depends_on_is_not_cut() -> None:
    macs = Budget((("macs", float(COSTS.costs(START)["macs"])),))
    for levels in _evolve(macs, 100, SPACE.kept(START)):
        assert (levels[3:6] >= START[3:6]).all()


def test_mutations_are_mostly_new() -> None:
    found = [tuple(levels) for levels in _evolve(BOPS, 60, SPACE.kept(START))]
    assert len(set(found)) >= 55


def test_an_uncompressed_parent_is_cut() -> None:
    ample = Budget((("bops", 1e9),))
    full = SPACE.full
    for levels in _evolve(ample, 20, np.ones(len(SPACE))):
        assert (levels <= full).all()
        assert (levels < full).any()


def test_evolution_improves(compressor: Compressor, budget: Budget) -> None:
    space, costs = compressor.space, compressor.costs
    aim = space.kept(project(np.array([0.9, 0.2, 0.6]), budget, space, costs))
    evolution = Evolution(toy_problem(space, budget, costs))
    rewards = []
    for _ in range(200):
        keep = space.kept(project(evolution.ask(), budget, space, costs))
        rewards.append(-float(((keep - aim) ** 2).sum()))
        evolution.tell(keep, rewards[-1])
    assert max(rewards) > 0.05 * rewards[0]
    assert np.mean(rewards[-40:]) > np.mean(rewards[:40])


def test_it_starts_uniform_at_the_budget_or_at_the_prior(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves
) -> None:
    space, costs = compressor.space, compressor.costs
    problem = toy_problem(space, budget, costs, curves=curves)
    uniform = Evolution(problem).ask()
    assert uniform is not None
    assert len(set(uniform.tolist())) == 1
    prior = GreedyEvolution(problem).ask()
    assert prior == pytest.approx(space.kept(greedy_levels(curves, budget, space, costs)))


def test_evolution_survives_failures() -> None:
    for first in (-1.0, float("-inf")):
        evolution = Evolution(toy_problem(SPACE, BOPS, COSTS))
        start = evolution.ask()
        evolution.tell(start, first)
        for _ in range(16):
            evolution.tell(evolution.ask(), float("-inf"))
        # All offspring failed: the next are still mutations of the start.
        offspring = np.array([evolution.ask() for _ in range(50)])
        assert abs(np.median(offspring, axis=0) - start)[:6].max() < 0.1


def test_equals_replace_the_parent() -> None:
    evolution = Evolution(toy_problem(SPACE, BOPS, COSTS))
    evolution._parent = SPACE.kept(START)
    evolution.tell(evolution.ask(), 1.0)
    brood = [evolution.ask() for _ in range(8)]
    for keep in brood:
        evolution.tell(keep, 1.0)
    parent = SPACE.nearest(brood[0] * SPACE.full_amounts)
    changed = [
        int((SPACE.nearest(evolution.ask() * SPACE.full_amounts) != parent).sum())
        for _ in range(30)
    ]
    assert min(changed) <= 2
