"""What every searcher must hold to, the user's own as well."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import make_problem

from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.registry import SEARCHERS
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Searcher, make_searcher
from rl_compress.searchers.sensitivity import measure_sensitivity
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels
from rl_compress.variants.compressor import Compressor

ALL = [*SEARCHERS.built_in, "own_searcher:Near"]


@pytest.fixture(scope="module")
def problem(compressor: Compressor) -> Problem:
    space, costs = compressor.space, compressor.costs

    def score(levels: Levels) -> float:
        removed = 1 - space.kept(levels)
        return -float((np.arange(1, len(levels) + 1) * removed**2).sum())

    return make_problem(
        compressor,
        Budget.parse({"macs": 0.4}, costs.original),
        curves=measure_sensitivity(space, score, 4),
        contribution_threshold=1e-3,
    )


def _proposals(searcher: Searcher, count: int = 12) -> np.ndarray:
    """Ask and tell a reward that depends on the proposal."""
    asked = []
    while len(asked) < count and (keep := searcher.ask()) is not None:
        asked.append(keep)
        # What cannot be evaluated is no obstacle.
        failed = len(asked) == 3
        searcher.tell(keep, float("-inf") if failed else -float(((keep - 0.3) ** 2).sum()))
    return np.array(asked)


@pytest.mark.parametrize("name", ALL)
def test_proposals_are_fractions_and_not_all_the_same(name: str, problem: Problem) -> None:
    asked = _proposals(make_searcher(name, problem))
    assert asked.shape[1:] == (len(problem.space),)
    assert ((asked >= 0) & (asked <= 1)).all()
    assert len(np.unique(asked, axis=0)) > 1


@pytest.mark.parametrize("name", ALL)
def test_a_seed_and_the_rewards_decide_the_proposals(name: str, problem: Problem) -> None:
    one, two, three = (
        _proposals(
            make_searcher(name, dataclasses.replace(problem, identity=RunIdentity(seed=seed)))
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    # Searchers without chance say so, for they are run once.
    assert np.array_equal(one, three) != SEARCHERS.find(name).seeded


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_said_to_be_needed_is_not_looked_at(name: str, problem: Problem) -> None:
    needs = SEARCHERS.find(name).needs
    assert needs in ("nothing", "curves", "contributions")
    less = problem
    if needs != "curves":
        less = dataclasses.replace(less, curves=None)
    if needs != "contributions":
        without = dataclasses.replace(less.compressor, contribution=None)
        less = dataclasses.replace(less, compressor=without)
    np.testing.assert_array_equal(
        _proposals(make_searcher(name, less)), _proposals(make_searcher(name, problem))
    )
