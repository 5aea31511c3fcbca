from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from problems import make_problem
from records import make_record

from rl_compress.agent.env import CompressionEnv
from rl_compress.agent.task import Task
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.goals import Goal, drawn_budgets, reference_rewards, shares
from rl_compress.searchers.known import Known
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels
from rl_compress.variants.compressor import Compressor

MakeTask = Callable[..., Task]


def macs(*bounds: float) -> list[Budget]:
    return [Budget((("macs", bound),)) for bound in bounds]


def test_between_bounds_on_one_cost_others_are_drawn() -> None:
    drawn = drawn_budgets(macs(100.0, 10.0, 1000.0))
    assert [one.budget for one in drawn[:3]] == macs(100.0, 10.0, 1000.0)
    between = [one.budget.bounds[0][1] for one in drawn[3:]]
    np.testing.assert_allclose(between, 10 ** np.array([1.25, 1.5, 1.75, 2.25, 2.5, 2.75]))
    dealt = shares(drawn, [1.0] * len(drawn))
    assert sum(dealt) == pytest.approx(1.0)
    assert sum(dealt[:3]) == pytest.approx(0.75)


def test_budgets_that_lose_more_are_drawn_more_often() -> None:
    drawn = drawn_budgets(macs(10.0, 100.0))
    dealt = shares(drawn, [0.9, 0.0, 0.5, 0.2, 0.1])
    assert sum(dealt) == pytest.approx(1.0)
    # Half of the episodes goes where something is lost, most of it to the tightest.
    assert dealt[0] > 0.5 * 0.375 + 0.4
    assert dealt[1] == pytest.approx(0.5 * 0.375, rel=1e-3)
    assert dealt[2] > dealt[3] > dealt[4] > 0.5 * 0.25 / 3


def test_only_listed_budgets_are_drawn_where_they_bound_different_costs() -> None:
    listed = [*macs(10.0), Budget((("params", 5.0),)), Budget((("macs", 5.0), ("params", 9.0)))]
    drawn = drawn_budgets(listed)
    assert [one.budget for one in drawn] == listed
    assert shares(drawn, [0.1] * 3) == pytest.approx([1 / 3] * 3)


def test_references_between_are_interpolated_in_the_logarithm_of_the_loss() -> None:
    drawn = drawn_budgets(macs(10.0, 1000.0))
    rewards = reference_rewards(drawn, [-0.99, 0.0], 0.01)
    np.testing.assert_allclose(rewards, [-0.99, 0.0, *(0.01 - 10 ** np.array([-0.5, -1, -1.5]))])


@pytest.fixture
def goals(
    compressor: Compressor, curves: SensitivityCurves, budget: Budget, evaluate: Any
) -> tuple[Goal, ...]:
    ((_, bound),) = budget.bounds
    found = []
    drawn = drawn_budgets(macs(bound, 0.5 * bound, 1.8 * bound))
    for one, share in zip(drawn, shares(drawn, [0.1] * len(drawn)), strict=True):
        prior = greedy_levels(curves, one.budget, compressor.space, compressor.costs)
        found.append(Goal(one.budget, prior, evaluate.score(prior), share))
    return tuple(found)


class Played:
    """An env that counts what its episodes were for."""

    def __init__(self, task: Task, evaluate: Any, seed: int, screens: bool = False) -> None:
        known: list[tuple[Levels, float]] = []

        def remember(levels: Levels, candidate: str) -> EvaluationRecord:
            record: EvaluationRecord = evaluate(levels, candidate)
            known.append((levels.copy(), record.reward))
            return record

        def records() -> Known:
            if not known:
                return Known()
            return Known(np.stack([w for w, _ in known]), np.array([r for _, r in known]))

        changes = {"episode": "whole", "screening": screens}
        task = dataclasses.replace(task, settings=task.settings.model_copy(update=changes))
        env = CompressionEnv(task, remember, records)
        env.action_space.seed(seed)
        self.goals: list[Goal] = []
        self.asked: list[Levels] = []
        self.observations = []
        for episode in range(24):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            assert env.observation_space.contains(observation)
            self.observations.append(observation)
            self.goals.append(env._goal)
            env.step(env.action_space.sample())
            self.asked.append(known[-1][0])


@pytest.mark.parametrize("screens", [False, True])
def test_every_episode_is_within_the_budget_that_was_drawn_for_it(
    make_task: MakeTask,
    goals: tuple[Goal, ...],
    evaluate: Any,
    compressor: Compressor,
    screens: bool,
) -> None:
    task = dataclasses.replace(make_task(), goals=goals)
    played = Played(task, evaluate, seed=3, screens=screens)
    for goal, levels in zip(played.goals, played.asked, strict=True):
        assert goal.budget.admits(compressor.costs.costs(levels))
    met = {goal.budget for goal in played.goals}
    assert {goal.budget for goal in goals[:3]} <= met
    assert len(met) > 3
    # The bounds are seen.
    seen = {tuple(observation.tolist()) for observation in played.observations}
    assert len(seen) == len(met)


def test_the_same_seed_draws_the_same_budgets(
    make_task: MakeTask, goals: tuple[Goal, ...], evaluate: Any
) -> None:
    task = dataclasses.replace(make_task(), goals=goals)
    drawn = [[goal.budget for goal in Played(task, evaluate, seed).goals] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_rewards_are_relative_to_the_episodes_own_prior(
    make_task: MakeTask, goals: tuple[Goal, ...], evaluate: Any
) -> None:
    for goal in goals:
        only = dataclasses.replace(goal, share=1.0)
        env = CompressionEnv(
            dataclasses.replace(make_task(episode="whole"), goals=(only,)), evaluate
        )
        env.reset(seed=0)
        _, reward, *_ = env.step(np.zeros(3, dtype=np.float32))
        assert reward == 0.0


def test_the_best_known_is_within_the_budget(compressor: Compressor, budget: Budget) -> None:
    space = compressor.space
    known = Known(np.stack([space.full, space.smallest]), np.array([1.0, 0.0]))
    levels, rewards = known.best(budget, compressor.costs, 2)
    np.testing.assert_array_equal(levels, [space.smallest])
    assert rewards.tolist() == [0.0]
    assert not len(known.best(Budget((("macs", 1.0),)), compressor.costs, 2)[0])


def test_a_record_beyond_the_jobs_budget_does_not_win(
    compressor: Compressor, budget: Budget, tmp_path: Any
) -> None:
    space = compressor.space
    ledger = EvaluationLedger(
        EvaluationStore(tmp_path), 5, make_problem(compressor, budget).may_win
    )
    for number, (levels, score) in enumerate([(space.full, 1.0), (space.smallest, 0)]):
        policy = space.policy_of(levels)
        ledger.claim(policy.policy_id, 0)
        ledger.complete(
            make_record(number, policy_id=policy.policy_id, realised=policy.to_json(), score=score)
        )
    best = ledger.progress().best
    assert best is not None
    assert best.evaluation_id == 1
    assert ledger.progress().done == 2
