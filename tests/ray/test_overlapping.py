"""Env runners evaluate while the learner learns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.utils.metrics import LEARNER_RESULTS

from rl_compress.search.config import SearchConfig
from rl_compress.search.rllib.algorithms import make_config

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.filterwarnings("ignore")]

PER_UPDATE = 4


class _Env(gym.Env):
    """One step an episode; notes each, and tells the event that one began."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))
    steps = 0
    began = threading.Event()

    def __init__(self, _config: Any) -> None:
        pass

    def reset(self, **_options: Any) -> tuple[Any, dict]:
        return np.zeros(3, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        _Env.steps += 1
        self.began.set()
        return np.zeros(3, dtype=np.float32), float(np.sum(action)), True, False, {}


@pytest.fixture
def algorithm() -> Iterator[Any]:
    """PPO as a search makes it, with its env in this process."""
    config = SearchConfig.model_validate(
        {"num_env_runners": 1, "ppo": {"episodes_per_update": PER_UPDATE}}
    )
    built = (
        make_config(config, "nobody", 1)
        .environment(_Env, env_config={})
        .env_runners(num_env_runners=0, create_local_env_runner=True)
        .build_algo()
    )
    _Env.steps = 0
    yield built
    built.stop()


def _weights(algorithm: Any) -> np.ndarray:
    state = algorithm.get_module().get_state()
    return np.concatenate([np.ravel(value) for _, value in sorted(state.items())])


def test_a_step_learns_from_the_episodes_of_the_one_before(algorithm: Any) -> None:
    before = _weights(algorithm)
    first = algorithm.train()
    assert LEARNER_RESULTS not in first or not first[LEARNER_RESULTS]
    assert np.array_equal(_weights(algorithm), before)
    second = algorithm.train()
    assert second[LEARNER_RESULTS]
    assert not np.array_equal(_weights(algorithm), before)
    assert _Env.steps == 2 * PER_UPDATE


def _waiting_for_an_episode(update: Callable[..., Any]) -> Callable[..., Any]:
    def updated(**options: Any) -> Any:
        assert _Env.began.wait(timeout=30)
        return update(**options)

    return updated


def test_episodes_go_on_during_an_update_and_end_with_the_step(algorithm: Any) -> None:
    algorithm.train()
    group = algorithm.learner_group
    group.update = _waiting_for_an_episode(group.update)
    for count in (2, 3):
        _Env.began.clear()
        algorithm.train()
        assert _Env.steps == count * PER_UPDATE


def test_a_step_may_be_of_several_updates(algorithm: Any) -> None:
    asked: list[int] = []

    def goes_on() -> bool:
        asked.append(_Env.steps)
        return len(asked) != 2

    algorithm.goes_on = goes_on
    algorithm.train()
    assert asked == [PER_UPDATE, 2 * PER_UPDATE]
    algorithm.train()
    # It is four at most, so that the driver can look after the run.
    assert _Env.steps == 6 * PER_UPDATE
