"""Env runners evaluate while the learner learns, and while the driver takes stock."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from ray.rllib.utils.metrics import LEARNER_RESULTS

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib.algorithms import make_config

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.filterwarnings("ignore")]

PER_UPDATE = 4


class _Log:
    """What happened, in order, in a file that all processes know."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(what + "\n")

    def read(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def wait_for(self, what: str) -> None:
        deadline = time.monotonic() + 30
        while what not in self.read():
            assert time.monotonic() < deadline, f"{what} never happened: {self.read()}"
            time.sleep(0.005)


class _Env(gym.Env):
    """One step an episode; notes what it is asked to do."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,))
    action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, config: Any) -> None:
        self._log, self._store_s = _Log(config["log"]), config["store_s"]

    def begin_sample(self, batches: int) -> None:
        self._log.note(f"batch {batches}")

    def end_sample(self) -> list[Any]:
        return [_stored.remote(self._log, self._store_s)]

    def reset(self, **_options: Any) -> tuple[Any, dict]:
        return np.zeros(3, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._log.note("step")
        return np.zeros(3, dtype=np.float32), float(np.sum(action)), True, False, {}


@ray.remote(num_cpus=0)
def _stored(log: _Log, seconds: float) -> None:
    time.sleep(seconds)
    log.note("stored")


@pytest.fixture
def log(tmp_path: Path) -> _Log:
    return _Log(tmp_path / "log")


@pytest.fixture
def make(log: _Log) -> Iterator[Callable[..., Any]]:
    """Make PPO as a search does, with the env above in one env runner."""
    this = sys.modules[__name__]
    register_pickle_by_value(this)
    built: list[Any] = []

    def make(store_s: float = 0.0) -> Any:
        config = SearchConfig.model_validate(
            {"num_env_runners": 1, "ppo": {"episodes_per_update": PER_UPDATE}}
        )
        made = make_config(config, "nobody", 1)
        made = made.environment(_Env, env_config={"log": log.path, "store_s": store_s})
        built.append(made.build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
    unregister_pickle_by_value(this)


def _weights(state: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for _, value in sorted(state.items())])


def _learned(algorithm: Any) -> np.ndarray:
    state = algorithm.learner_group.get_state(inference_only=True)
    return _weights(state["learner"]["rl_module"]["default_policy"])


def _played_with(algorithm: Any) -> np.ndarray:
    (state,) = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.get_state()["rl_module"], local_env_runner=False
    )
    return _weights(state)


def test_a_batch_is_learned_from_while_the_next_is_played(
    make: Callable[..., Any], log: _Log
) -> None:
    algorithm = make()
    group, first = algorithm.learner_group, _learned(algorithm)
    update, learned = group.update, []

    def updated(**options: Any) -> Any:
        log.wait_for(f"batch {len(learned) + 1}")
        result = update(**options)
        learned.append(_learned(algorithm))
        return result

    group.update = updated
    assert algorithm.train()[LEARNER_RESULTS]
    assert log.read().count("step") == 2 * PER_UPDATE
    assert len(learned) == 1
    assert not np.array_equal(learned[0], first)
    # What is learned of the first batch comes too late for the second, and in time for the third.
    assert np.array_equal(_played_with(algorithm), first)
    algorithm.train()
    assert log.read().count("step") == 4 * PER_UPDATE
    assert len(learned) == 3
    assert np.array_equal(_played_with(algorithm), learned[1])


def test_the_next_batch_begins_while_the_driver_takes_stock(
    make: Callable[..., Any], log: _Log
) -> None:
    algorithm = make()
    taken: list[int] = []

    def publish(batches: int) -> bool:
        if batches < 3:
            log.wait_for(f"batch {batches}")
        taken.append(batches)
        return batches < 2

    algorithm.publish = publish
    algorithm.train()
    assert taken == [1, 2, 3]


def test_a_step_is_of_several_updates(make: Callable[..., Any], log: _Log) -> None:
    algorithm = make()
    published: list[int] = []

    def publish(batches: int) -> bool:
        published.append(batches)
        return batches != 2

    algorithm.publish = publish
    algorithm.train()
    # When it is told to stop, the next batch is asked for already.
    assert published == [1, 2, 3]
    assert log.read().count("step") == 3 * PER_UPDATE
    algorithm.train()
    # It is eight at most, so that the driver can look after the run.
    assert published == list(range(1, 12))
    batches = [line for line in log.read() if line.startswith("batch")]
    assert batches == [f"batch {number}" for number in range(11)]


def test_nobody_learns_before_the_records_are_stored(make: Callable[..., Any], log: _Log) -> None:
    algorithm = make(store_s=0.5)
    stored: list[int] = []

    def publish(_batches: int) -> bool:
        stored.append(log.read().count("stored"))
        return False

    algorithm.publish = publish
    algorithm.train()
    first, second = stored
    assert first >= 1
    assert second == 2
