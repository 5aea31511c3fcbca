"""What keeps env runners from starting is one line, and is said before anything is measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from running import Outcome, count_parts, run_here, write_job
from tiny_target import TinyTarget

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib import cluster, room, standby, starting
from rl_compress.agent.rllib.cluster import fitting
from rl_compress.errors import ConfigError
from rl_compress.targets import factory as factories

pytestmark = pytest.mark.usefixtures("ray_session")


def _search(folder: Path, **changes: Any) -> Outcome:
    settings = {"search__algorithm": "ppo", "search__evaluations": 6, "search__num_env_runners": 1}
    job = write_job(folder, **{**settings, **changes})
    return run_here("search", job, "--output", folder / "run")


def _assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome
    for word in words:
        assert word in outcome.error, outcome.error


def _free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def _assert_all_is_free() -> None:
    deadline = time.monotonic() + 30
    while _free_cpus() < 4.0:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"search__num_env_runners": 5, "search__num_cpus_per_env_runner": 1.0},
            ["5 env runners need 1 CPU each", "has 4 CPU", "room for 4"],
        ),
        ({"search__num_gpus_per_env_runner": 1.0}, ["0.5 CPU and 1 GPU each", "0 GPU"]),
        (
            {"search__num_env_runners": 2, "search__num_cpus_per_env_runner": 3.0},
            ["need 3 CPU each", "room for 1"],
        ),
    ],
    ids=["CPUs", "GPUs", "parts"],
)
def test_cluster_without_room_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.setattr(room, "_PATIENCE_OF_FIXED_S", 1.0)

    outcome = _search(tmp_path, **asked)

    _assert_refused(outcome, 2, "search.num_env_runners", *words)
    assert not (tmp_path / "run" / "evaluations").exists()
    _assert_all_is_free()


def test_cluster_that_is_busy_or_grows_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "_QUIET_S", 0.5)
    monkeypatch.setattr(room, "_PATIENCE_OF_FIXED_S", 0.0)
    monkeypatch.setattr(room, "_may_grow", lambda: True)
    other = ray.util.placement_group([{"CPU": 4}])
    assert other.wait(30)
    monkeypatch.setattr(room, "_PATIENCE_S", 3.0)

    config = SearchConfig(num_gpus_per_env_runner=0.0)
    with (
        pytest.raises(ConfigError, match=r"2 env runners .* has 4 CPU .0 free., room for 4"),
        room.reserved(config),
    ):
        pass
    ray.util.remove_placement_group(other)
    with room.reserved(config) as group:
        assert group is not None

    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("waiting up to 3 s for room: 2 env runners need 1 CPU each")


@pytest.mark.parametrize(
    ("status", "grows"),
    [
        (None, True),
        ("{}", True),
        ({"node_1f": 1, "node_2a": 1}, False),
        ({"headgroup": 1, "node_2a": 1}, True),
        ({}, True),
    ],
)
def test_cluster_may_grow_unless_its_autoscaler_only_watches(
    monkeypatch: pytest.MonkeyPatch, status: Any, grows: bool
) -> None:
    if isinstance(status, dict):
        status = json.dumps({"autoscaler_report": {"active_nodes": status}})
    monkeypatch.setattr(room, "_internal_kv_get", lambda _key: status)
    assert room._may_grow() is grows


def test_cluster_of_the_tests_does_not_grow() -> None:
    deadline = time.monotonic() + 60
    while room._may_grow():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("raises_in_workers", ["in a Ray worker: target.factory", "RuntimeError: no disk there"]),
        ("dies_in_workers", ["target.factory", "the Ray worker that made", "died"]),
    ],
)
def test_target_that_no_worker_can_make_is_refused(
    tmp_path: Path, factory: str, words: list[str]
) -> None:
    _assert_refused(_search(tmp_path, target={"factory": f"tiny_target:{factory}"}), 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("factory", "code", "words"),
    [
        ("raises_in_actors", 2, ["target.factory", "RuntimeError: no disk there"]),
        pytest.param(
            *("dies_in_actors", 1, ["search: env runner", "died 3 times as it started"]),
            marks=pytest.mark.slow,  # each death is that of a process which has imported all
        ),
        ("hangs_in_actors", 1, ["search: env runners have not started within 8 s"]),
    ],
)
def test_env_runner_that_does_not_start_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, code: int, words: list[str]
) -> None:
    if factory.startswith("hangs"):
        monkeypatch.setattr(starting, "_PATIENCE_S", 8.0)

    outcome = _search(tmp_path, target={"factory": f"tiny_target:{factory}"})

    _assert_refused(outcome, code, *words)
    _assert_all_is_free()


def test_worker_that_takes_long_is_told_of_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "_QUIET_S", 0.0)
    monkeypatch.setattr(standby, "_PATIENCE_S", 3.0)
    monkeypatch.setattr(standby, "_make", lambda _target, _factory: time.sleep(600))
    target = factories.TargetConfig(factory="tiny_target:tiny")

    with pytest.raises(factories.TargetError, match=r"tiny_target:tiny has not ended within 3 s"):
        standby.try_worker(target, SearchConfig())

    assert "waiting for a Ray worker that makes the target tiny_target:tiny" in caplog.text
    _assert_all_is_free()


# Factories of the program itself


_PROGRAM = """
import tiny_target

class Net(tiny_target.TinyNet):
    pass

class Mine(tiny_target.TinyTarget):
    def architecture(self):
        return Net()

def make_here(batchnorm=True):
    return Mine(batchnorm=batchnorm)
"""


def test_factory_of_the_program_itself_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script's, a notebook's, or one that is typed in."""
    program: dict[str, Any] = {"__name__": "__main__"}
    exec(_PROGRAM, program)
    for name in ("Net", "Mine", "make_here"):
        monkeypatch.setattr(sys.modules["__main__"], name, program[name], raising=False)

    outcome = _search(tmp_path, target={"factory": "__main__:make_here"})

    assert outcome.code == 0, outcome.stderr
    assert count_parts(tmp_path / "run") >= 1


def test_factory_that_cannot_be_sent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program: dict[str, Any] = {"__name__": "__main__", "found": sys._getframe()}
    exec("def odd():\n    import tiny_target\n    found\n    return tiny_target.tiny()", program)
    monkeypatch.setattr(sys.modules["__main__"], "odd", program["odd"], raising=False)

    outcome = _search(tmp_path, target={"factory": "__main__:odd"})

    _assert_refused(outcome, 2, "__main__:odd cannot be sent to Ray workers", "module:odd")


def test_factory_that_was_lent_is_made_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "_LENT", {})
    factories.lend_factory("__main__:lent", TinyTarget)
    config = factories.TargetConfig(factory="__main__:lent")
    assert isinstance(factories.make_target(config), TinyTarget)
    assert factories.own_factory("__main__:lent") is TinyTarget
    factories.lend_factory("__main__:other", None)
    with pytest.raises(factories.TargetError, match=r"script or notebook .* has no 'other'"):
        factories.own_factory("__main__:other")
    assert factories.own_factory("tiny_target:tiny") is None


# Runners and cores


@pytest.mark.parametrize(
    ("runners", "cpus_each", "kept"),
    [(50, 1.0, 4), (50, 0.5, 8), (2, 4.0, 2), (4, 1.0, 4), (50, 0.0, 50)],
)
def test_local_machine_gets_as_many_env_runners_as_it_has_cores_for(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    runners: int,
    cpus_each: float,
    kept: int,
) -> None:
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    config = SearchConfig(num_env_runners=runners, num_cpus_per_env_runner=cpus_each)

    assert fitting(config, None).num_env_runners == kept

    assert [f"{runners} is lowered to {kept}" in r.getMessage() for r in caplog.records] == (
        [] if kept == runners else [True]
    )
    assert fitting(config, "10.0.0.1:6379") is config
