from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from masks import make_compressor
from problems import make_problem
from records import make_record

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.mask_env import MaskEnv, compressed
from rl_compress.agent.task import Task
from rl_compress.errors import EvaluationError
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels

WEIGHTS = [3.0, -0.1, 2.0, 0.2, -4.0, 0.3]
USEFUL = np.array([1, 0, 1, 0, 1, 0])
VALUES = np.array([0.3, -0.01, 0.2, -0.01, 0.4, -0.01])
COMPRESSOR = make_compressor(WEIGHTS, [2, 1, 1, 1, 1, 1])
Answer = Callable[[Levels, str], EvaluationRecord | None]


class Toy:
    """Scores a mask by the sum of its units' values, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], str]] = []
        self._ids: dict[bytes, int] = {}

    def score(self, levels: Levels) -> float:
        return float(VALUES @ levels)

    def __call__(self, levels: Levels, candidate: str) -> EvaluationRecord:
        self.asked.append((levels.tolist(), candidate))
        number = self._ids.setdefault(levels.tobytes(), len(self._ids))
        return make_record(number, score=self.score(levels))


def make_env(
    evaluate: Answer, *, steps: int = 1, bound: float = 7, curves: SensitivityCurves | None = None
) -> MaskEnv:
    original = float(VALUES.sum())
    task = Task(
        problem=make_problem(COMPRESSOR, Budget((("params", bound),)), curves=curves),
        settings=SearchConfig(),
        reward=lambda score, _costs: score,
        prior=None,
        reference_reward=original - 0.5,
        original_reward=original,
    )
    return MaskEnv(task, evaluate, steps)


def play(env: MaskEnv, *actions: list[int]) -> tuple[list[float], list[dict[str, Any]]]:
    env.reset(seed=0)
    rewards, infos = [], []
    for action in actions:
        _, reward, _, truncated, info = env.step(np.array(action))
        rewards.append(reward)
        infos.append(info)
        assert not truncated
    return rewards, infos


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasiums_own_check_passes(steps: int) -> None:
    check_env(make_env(Toy(), steps=steps, bound=4), skip_render_check=True)


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=6))
def test_every_variant_is_within_the_budget_and_the_last_one(masks: list[list[int]]) -> None:
    toy = Toy()
    env = make_env(toy, steps=3, bound=3)
    done, before = True, [1] * 6
    for mask in masks:
        if done:
            env.reset()
            before = [1] * 6
        observation, _, done, _, _ = env.step(np.array(mask))
        assert env.observation_space.contains(observation)
        found = toy.asked[-1][0]
        assert np.array(found) @ COMPRESSOR.costs.prices <= 3
        assert all(new <= old for new, old in zip(found, before, strict=True))
        before = found


def test_an_action_says_which_units_of_the_current_variant_stay() -> None:
    toy = Toy()
    play(make_env(toy, steps=3), [1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 1], [1] * 6)
    assert [asked for asked, _ in toy.asked] == [
        [1, 1, 1, 0, 1, 1],
        [1, 0, 1, 0, 1, 1],
        [1, 0, 1, 0, 1, 1],
    ]


def test_the_episode_ends_after_its_steps() -> None:
    env = make_env(Toy(), steps=2)
    env.reset(seed=0)
    assert [env.step(np.ones(6, dtype=int))[2] for _ in range(2)] == [False, True]


def test_the_episode_ends_when_nothing_is_left() -> None:
    env = make_env(Toy(), steps=5)
    env.reset(seed=0)
    assert env.step(np.zeros(6, dtype=int))[2] is True


def test_rewards_are_the_changes_of_the_objective_in_units_of_the_references_loss() -> None:
    rewards, infos = play(make_env(Toy(), steps=3), [1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1], [1] * 6)
    assert rewards == pytest.approx([0.01 / 0.5, -0.2 / 0.5, 0.0])
    assert [info["evaluation_id"] for info in infos] == [0, 1, 1]
    assert infos[1]["reward"] == pytest.approx(VALUES.sum() + 0.01 - 0.2)


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=4, max_size=4))
def test_rewards_of_an_episode_add_up_to_the_last_variants_value(masks: list[list[int]]) -> None:
    toy = Toy()
    env = make_env(toy, steps=4, bound=5)
    env.reset(seed=0)
    total, done = 0.0, False
    for mask in masks:
        if not done:
            _, reward, done, _, info = env.step(np.array(mask))
            total += reward
    lost = (info["reward"] - VALUES.sum()) / 0.5
    assert total == pytest.approx(compressed(lost))


@given(st.floats(-1e6, 10), st.floats(-1e6, 10))
def test_losses_beyond_one_unit_are_compressed_in_order(one: float, other: float) -> None:
    assert (compressed(one) <= compressed(other)) == (one <= other) or math.isclose(one, other)
    assert compressed(one) >= one


def test_compression_is_by_the_logarithm() -> None:
    assert compressed(-0.7) == -0.7
    assert compressed(-1.0) == -1.0
    assert compressed(-math.e) == pytest.approx(-2.0)


def test_a_tiny_loss_of_the_reference_is_not_the_unit() -> None:
    task = make_env(Toy())._task
    alike = dataclasses.replace(task, reference_reward=task.original_reward)
    rewards, _ = play(MaskEnv(alike, Toy(), 1), [1, 0, 1, 1, 1, 1])
    assert rewards == pytest.approx([0.01 / 0.05])


def test_over_the_budget_the_units_with_the_smallest_weights_go_first() -> None:
    toy = Toy()
    play(make_env(toy, bound=4), [1] * 6)
    assert toy.asked[0][0] == [1, 0, 1, 0, 1, 0]


def test_over_the_budget_the_least_sensitive_units_go_first_where_known() -> None:
    toy = Toy()

    def reversed_score(levels: Levels) -> float:
        return float(np.arange(6)[::-1] @ levels)

    curves = measure_sensitivity(COMPRESSOR.space, reversed_score, 1)
    play(make_env(toy, bound=4, curves=curves), [1] * 6)
    assert toy.asked[0][0] == [1, 1, 1, 0, 0, 0]


def test_the_candidate_recorded_is_what_was_asked_for() -> None:
    toy = Toy()
    play(make_env(toy, bound=2), [1, 1, 1, 0, 0, 0])
    decisions = json.loads(toy.asked[0][1])["decisions"]
    assert [decision["pruning_ratio"] for decision in decisions.values()] == [0, 0, 0, 1, 1, 1]


def test_an_agent_that_repeats_itself_sees_other_masks_nearby() -> None:
    toy = Toy()
    env = make_env(toy)
    env.reset(seed=0)
    for _ in range(12):
        env.reset()
        env.step(USEFUL)
    seen = [tuple(asked) for asked, _ in toy.asked]
    assert seen[0] == tuple(USEFUL)
    assert len(set(seen)) == 12
    assert sorted(np.abs(np.array(seen) - USEFUL).sum(axis=1))[:4] == [0, 1, 1, 1]


def test_a_seed_repeats_the_masks_nearby() -> None:
    found = []
    for _ in range(2):
        toy = Toy()
        env = make_env(toy)
        env.reset(seed=3)
        for _ in range(6):
            env.step(USEFUL)
            env.reset()
        found.append([asked for asked, _ in toy.asked])
    assert found[0] == found[1]


def test_an_exhausted_run_ends_the_episode_without_reward() -> None:
    env = make_env(lambda _widths, _candidate: None, steps=3)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.ones(6, dtype=int))
    assert (reward, terminated, info) == (0.0, True, {"exhausted": True})


def test_a_variant_that_cannot_be_evaluated_ends_the_episode() -> None:
    def fail(_widths: Levels, _candidate: str) -> None:
        raise EvaluationError("variant x failed")

    env = make_env(fail, steps=3)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.ones(6, dtype=int))
    assert (reward, terminated, info) == (-3.0, True, {"error": "variant x failed"})


def test_a_reset_begins_with_the_uncompressed_target() -> None:
    env = make_env(Toy(), steps=2)
    first, _ = env.reset(seed=0)
    env.step(USEFUL)
    again, _ = env.reset()
    np.testing.assert_array_equal(first, again)
