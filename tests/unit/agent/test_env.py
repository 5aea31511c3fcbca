from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import zoo
from gymnasium.utils.env_checker import check_env
from problems import make_problem

from rl_compress.agent.budget_handling import BudgetHandling
from rl_compress.agent.env import CompressionEnv
from rl_compress.agent.task import Task
from rl_compress.errors import EvaluationError, SearchStalledError
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.known import Known
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

MakeEnv = Callable[..., CompressionEnv]
MakeTask = Callable[..., Task]

KINDS = [(True, "layerwise"), (True, "whole"), (False, "layerwise"), (False, "whole")]
ALL_KINDS = pytest.mark.parametrize(
    ("prior", "episode"), KINDS, ids=[f"{'' if p else 'no-'}prior-{e}" for p, e in KINDS]
)


def play(env: CompressionEnv, actions: np.ndarray) -> tuple[float, dict[str, Any], list[float]]:
    """Play one episode with an action for each group; return the last reward, info and rewards."""
    env.reset(seed=0)
    steps = actions.reshape(-1, env.action_space.shape[0])
    rewards = []
    for number, action in enumerate(steps):
        _, reward, terminated, truncated, info = env.step(action.astype(np.float32))
        rewards.append(reward)
        assert terminated == (number == len(steps) - 1)
        assert not truncated
    return rewards[-1], info, rewards


@ALL_KINDS
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasiums_own_check_passes(make_env: MakeEnv, prior: bool, episode: str) -> None:
    check_env(make_env(prior=prior, episode=episode), skip_render_check=True)


@ALL_KINDS
def test_observations_are_in_their_space(make_env: MakeEnv, prior: bool, episode: str) -> None:
    env = make_env(prior=prior, episode=episode)
    env.action_space.seed(0)
    for _ in range(5):
        observation, _ = env.reset()
        done = False
        while not done:
            assert env.observation_space.contains(observation)
            observation, _, done, _, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert not observation.any()


@pytest.mark.parametrize(("episode", "decisions"), [("layerwise", 1), ("whole", 3)])
def test_an_action_decides_one_group_or_all(
    make_env: MakeEnv, episode: str, decisions: int
) -> None:
    assert make_env(episode=episode).action_space.shape == (decisions,)


@ALL_KINDS
@pytest.mark.parametrize("handling", get_args(BudgetHandling))
def test_every_candidate_is_within_the_budget(
    make_env: MakeEnv,
    prior: bool,
    episode: str,
    handling: str,
    evaluate: Any,
    budget: Budget,
    compressor: Compressor,
) -> None:
    env = make_env(prior=prior, episode=episode, budget_handling=handling)
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 5.0):
        for _ in range(10):
            play(env, rng.normal(0, scale, len(compressor.space)))
    assert len(evaluate.asked) == 30
    for levels, _ in evaluate.asked:
        assert budget.admits(compressor.costs.costs(levels))
        assert ((levels >= 0) & (levels <= compressor.space.full)).all()


@pytest.mark.parametrize("episode", ["layerwise", "whole"])
def test_a_zero_action_is_the_prior(
    make_env: MakeEnv, make_task: MakeTask, evaluate: Any, episode: str
) -> None:
    reward, info, _ = play(make_env(episode=episode), np.zeros(3))
    prior = make_task().prior
    assert prior is not None
    assert evaluate.asked[-1][0].tolist() == prior.tolist()
    assert reward == 0.0
    assert info == {"evaluation_id": 0, "reward": evaluate.score(prior)}


def test_an_action_moves_a_group_against_the_others(make_env: MakeEnv, evaluate: Any) -> None:
    env = make_env()
    play(env, np.array([0.0, 0.0, 0.0]))
    play(env, np.array([1.0, -1.0, 0.0]))
    before, after = evaluate.asked[0][0], evaluate.asked[1][0]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_without_a_prior_the_action_is_the_fraction_kept(make_env: MakeEnv, evaluate: Any) -> None:
    play(make_env(prior=False), np.array([-0.5, -0.5, 0.0]))
    amounts = evaluate.compressor.space.amounts(evaluate.asked[0][0])
    assert amounts.tolist() == [2, 3, 10]


def test_clipped_early_groups_leave_room_for_the_rest(
    make_env: MakeEnv, evaluate: Any, budget: Budget, compressor: Compressor
) -> None:
    play(make_env(prior=False, budget_handling="clip"), np.ones(3))
    levels = evaluate.asked[0][0]
    # The first group takes all it can: its next level would not fit even with the smallest others.
    full = compressor.space.full
    assert levels[0] == full[0] or not budget.admits(
        compressor.costs.costs(np.array([levels[0] + 1, 0, 0]))
    )
    for index in np.flatnonzero(levels < full):
        higher = levels.copy()
        higher[index] += 1
        assert not budget.admits(compressor.costs.costs(higher))


def test_the_candidate_recorded_is_what_was_asked_for(make_env: MakeEnv, evaluate: Any) -> None:
    play(make_env(), np.array([-1.0, 1.0, 0.0]))
    decisions = json.loads(evaluate.asked[0][1])["decisions"]
    assert list(decisions) == ["conv1", "conv2", "fc1"]


def test_actions_outside_their_bounds_are_clipped(make_env: MakeEnv, evaluate: Any) -> None:
    env = make_env()
    play(env, np.array([1.0, -1.0, 1.0]))
    play(env, np.array([9.0, -9.0, 9.0]))
    assert evaluate.asked[0][0].tolist() == evaluate.asked[1][0].tolist()


def test_only_the_last_step_is_rewarded(make_env: MakeEnv) -> None:
    _, _, rewards = play(make_env(), np.array([1.0, -1.0, 0.0]))
    assert rewards[:-1] == [0.0, 0.0]
    assert rewards[-1] != 0.0


def test_the_reward_is_relative_to_the_prior(
    make_env: MakeEnv, make_task: MakeTask, evaluate: Any
) -> None:
    reward, _, _ = play(make_env(), np.array([0.4, -0.4, 0.2]))
    reference = make_task().reference_reward
    expected = (evaluate.score(evaluate.asked[0][0]) - reference) / -reference
    assert reward == pytest.approx(expected)
    assert abs(reward) < 3


def _with_answer(
    make_task: MakeTask, answer: Callable[[Levels, str], EvaluationRecord | None]
) -> CompressionEnv:
    return CompressionEnv(make_task(episode="whole"), answer)


def test_an_exhausted_run_ends_the_episode_without_reward(make_task: MakeTask) -> None:
    env = _with_answer(make_task, lambda _widths, _candidate: None)
    reward, info, _ = play(env, np.zeros(3))
    assert (reward, info) == (0.0, {"exhausted": True})


def test_a_variant_that_cannot_be_evaluated_has_the_worst_reward(
    make_task: MakeTask,
) -> None:
    def fail(_widths: Levels, _candidate: str) -> None:
        raise EvaluationError("variant x failed")

    reward, info, _ = play(_with_answer(make_task, fail), np.zeros(3))
    assert (reward, info) == (-3.0, {"error": "variant x failed"})


def test_rewards_are_bounded(make_task: MakeTask, evaluate: Any) -> None:
    def terrible(levels: Levels, candidate: str) -> EvaluationRecord:
        record = evaluate(levels, candidate)
        fields = {name: getattr(record, name) for name in record.__slots__}
        return EvaluationRecord(**fields | {"reward": -1e9})

    reward, _, _ = play(_with_answer(make_task, terrible), np.zeros(3))
    assert reward == -3.0


def test_a_reset_begins_anew(make_env: MakeEnv, evaluate: Any) -> None:
    env = make_env()
    first, _ = env.reset()
    env.step(np.array([-1.0], dtype=np.float32))
    again, _ = env.reset()
    np.testing.assert_array_equal(first, again)
    play(env, np.zeros(3))
    play(make_env(), np.zeros(3))
    assert evaluate.asked[0][0].tolist() == evaluate.asked[1][0].tolist()


def test_groups_without_a_choice_are_not_asked_for(make_task: MakeTask, evaluate: Any) -> None:
    """As with pruning fixed at 0, where a job that searches bits gives what is kept."""
    config = SpaceConfig.model_validate(
        {
            "pruning": {"max_ratio": 0.0},
            "quantization": {"weight_bits": [2, 4, 8]},
            "protect": [],
        }
    )
    compressor = Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, config)
    space = compressor.space
    full = compressor.costs.costs(space.full)
    budget = Budget((("size_bytes", 0.7 * full["size_bytes"]),))
    problem = make_problem(compressor, budget)
    task = dataclasses.replace(make_task(prior=False, budget_handling="decrement"), problem=problem)
    evaluate = type(evaluate)(compressor)
    env = CompressionEnv(task, evaluate)
    assert 0 < space.num_decisions < len(space)
    play(env, np.ones(space.num_decisions))
    levels = evaluate.asked[0][0]
    assert (levels == space.full)[space.prunes].all()
    assert budget.admits(compressor.costs.costs(levels))
    settings = task.settings.model_copy(update={"episode": "whole"})
    whole = CompressionEnv(dataclasses.replace(task, settings=settings), evaluate)
    assert whole.action_space.shape == (space.num_decisions,)


def test_what_this_env_measured_is_learned_from_at_once(make_task: MakeTask, evaluate: Any) -> None:
    """And what others did as soon as it is told."""
    task = make_task(episode="whole")
    settings = task.settings.model_copy(update={"screening": True})
    task = dataclasses.replace(task, settings=settings)
    told = Known(task.problem.space.smallest[None], np.array([-9.0]))
    published = [Known(), Known(), told]
    env = CompressionEnv(task, evaluate, lambda: published.pop(0))
    assert env._screening is not None
    learned: list[Any] = []
    improve = env._screening.improve

    def spy(proposal: Levels, budget: Budget, known: Known, rng: np.random.Generator) -> Levels:
        learned.append(known.levels.tolist())
        return improve(proposal, budget, known, rng)

    env._screening.improve = spy  # type: ignore[method-assign]
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(env.action_space.shape, dtype=np.float32))
        env.reset()
    measured = [levels.tolist() for levels, _ in evaluate.asked]
    assert learned == [
        [],
        measured[:1],
        [told.levels[0].tolist(), *measured[:2]],
    ]


@ALL_KINDS
def test_actions_that_are_no_numbers_are_refused(
    make_env: MakeEnv, prior: bool, episode: str
) -> None:
    env = make_env(prior=prior, episode=episode)
    env.reset(seed=0)
    action = np.full(env.action_space.shape or (), np.nan, dtype=np.float32)
    with pytest.raises(SearchStalledError, match="learning_rate"):
        env.step(action)
