from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from looped_batch import LoopedBatch
from problems import toy_problem

from rl_compress.searchers.baselines.thresholds import Contribution, Global
from rl_compress.searchers.problem import Problem
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Amounts, Dimension, SearchSpace

SPACE = SearchSpace((Dimension("a", "channels", (1, 2, 3, 4)), Dimension("b", "channels", (1, 2))))


class Count(LoopedBatch):
    def of(self, amounts: Amounts) -> dict[str, int]:
        return {"params": int(amounts.sum())}


JOINT = SearchSpace((*SPACE.dimensions, Dimension("a", "weight_bits", (4, 8))))


def _problem(space: SearchSpace, bound: float = 99, **known: Any) -> Problem:
    return toy_problem(space, Budget((("params", bound),)), Count(space), **known)


def _all(baseline: Any, space: SearchSpace = SPACE) -> list[list[float]]:
    found = []
    while (keep := baseline.ask()) is not None:
        found.append((keep * space.full_amounts).tolist())
    return found


def test_all_units_compete_relative_to_their_layer() -> None:
    # Relative to the means 2.5 and 10: 1.6 .8 1.2 .4 and 1.5 .5.
    importances = [np.array([4.0, 2.0, 3.0, 1.0]), np.array([15.0, 5.0])]
    baseline = Global(_problem(SPACE, 5, importances=importances, layers=["a", "b"]))
    assert _all(baseline) == [[3, 2], [3, 1], [2, 1], [1, 1], [1, 1]]


def test_units_of_one_layer_share_its_mean() -> None:
    single = SearchSpace(tuple(Dimension(f"u{i}", "channels", (0, 1)) for i in range(3)))
    importances = [np.array([1.0]), np.array([3.0]), np.array([10.0])]
    first = Global(_problem(single, 2, importances=importances, layers=["a", "a", "b"])).ask()
    # Relative: 0.5, 1.5 within a; 1 alone in b.
    assert first is not None
    assert first.tolist() == [0, 1, 1]


def test_contribution_begins_with_what_it_kept_then_moves_the_threshold() -> None:
    contributions = [np.array([0.9, 0.1, 0.5, 0.0]), np.array([0.3, 0.7])]
    result: Any = SimpleNamespace(
        kept_fractions=lambda: np.array([0.75, 0.5]), by_group=lambda: contributions
    )
    found = _all(Contribution(_problem(SPACE, contribution=result, contribution_threshold=0.4)))
    assert found[0] == [3, 1]
    # Just below .5: .9, .5, .7 stay; just below .3: .3 too; just below .7, .1, .9 and 0.
    assert found[1:] == [[2, 1], [2, 2], [1, 1], [3, 2], [1, 0], [4, 2]]


def test_units_compete_with_the_most_bits_first() -> None:
    importances = [np.array([4.0, 2.0, 3.0, 1.0]), np.array([15.0, 5.0])]
    problem = _problem(JOINT, 11, importances=importances, layers=["a", "b"])
    found = _all(Global(problem), JOINT)
    assert found[:2] == [[2, 1, 8], [1, 1, 8]]
    assert [4, 2, 4] in found


def test_contribution_keeps_the_most_bits() -> None:
    result: Any = SimpleNamespace(
        kept_fractions=lambda: np.array([0.75, 0.5]),
        by_group=lambda: [np.array([0.9, 0.1, 0.5, 0.0]), np.array([0.3, 0.7])],
    )
    problem = _problem(JOINT, contribution=result, contribution_threshold=0.4)
    found = _all(Contribution(problem), JOINT)
    assert [bits for _, _, bits in found] == [8] * len(found)
    assert found[0] == [3, 1, 8]
