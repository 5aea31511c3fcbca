"""Searches with RLlib on the shared cluster: counts, budget, workers, seeds, and broken runners."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from running import HERE as INTEGRATION
from running import count_parts, is_alive, prepared, read_records, run_process, searched, write_job

from rl_compress.agent.config import RLAlgorithm, SearchConfig
from rl_compress.errors import SearchStalledError, StorageError
from rl_compress.evaluation.ledger import Progress
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore

pytestmark = pytest.mark.usefixtures("ray_session")


def _search(folder: Path, **changes: Any) -> tuple[Progress, str | None]:
    return searched(folder, **{"search__algorithm": "ppo", **changes})


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, ray_session: Any
) -> tuple[Path, Progress, str | None]:
    """Return a finished search, and how it ended; its processes left their ids in ``pids``."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "pids").mkdir()
    return folder, *_search(
        folder, search__evaluations=12, target__options={"pids": str(folder / "pids")}
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        # SAC and TQC differ in their critics only.
        pytest.param(name, marks=pytest.mark.slow if name == "sac" else ())
        for name in get_args(RLAlgorithm)
    ],
)
def test_search_makes_exactly_the_evaluations_asked_for(
    tmp_path: Path, request: pytest.FixtureRequest, algorithm: str
) -> None:
    if algorithm == "ppo":
        folder, progress, reason = request.getfixturevalue("finished")
    else:
        folder = tmp_path
        progress, reason = _search(
            folder, search__algorithm=algorithm, target__options={"sleep_s": 0.02}
        )

    assert reason is None
    assert progress.done == 12
    records = read_records(folder)
    assert len(records) == len({record.policy_id for record in records}) == 12
    assert {record.algorithm for record in records} == {algorithm}
    # Both runners took part, beside the driver, which evaluates the prior.
    assert {record.worker for record in records} == {0, 1, 2}
    original = prepared(tmp_path).problem.original_costs
    assert all(record.costs["macs"] <= 0.5 * original["macs"] for record in records)
    prior = min(records, key=lambda record: record.evaluation_id)
    assert prior.worker == 0
    assert progress.best is not None
    assert progress.best.reward >= prior.reward


def test_search_leaves_no_actor_behind(finished: tuple[Path, Progress, str | None]) -> None:
    import ray

    runners = _runners(finished[0] / "pids")
    assert runners
    deadline = time.monotonic() + 20
    while any(map(is_alive, runners)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_alive, runners))
    assert ray.util.list_named_actors(all_namespaces=True) == []


def test_same_seed_gives_the_same_records(
    finished: tuple[Path, Progress, str | None], tmp_path: Path
) -> None:
    """Learning included.

    With several runners, who asks first for a variant depends on timing; which are measured does
    not, although the last batch proposes more than there are evaluations left.
    """
    _search(tmp_path, search__evaluations=12)

    measured, again = (
        {(r.realised, r.score, r.reward) for r in read_records(run)}
        for run in (finished[0], tmp_path)
    )
    assert len(measured) == 12
    assert measured == again


def test_plain_amc_search_ends_with_all_evaluations(tmp_path: Path) -> None:
    """Without a prior, and all groups in one step."""
    progress, _ = _search(
        tmp_path,
        search__prior="none",
        search__episode="whole",
        search__evaluations=8,
        search__num_env_runners=1,
    )

    assert progress.done == len(read_records(tmp_path)) == 8
    assert not (tmp_path / "sensitivity.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", "tqc"])
def test_same_seed_gives_the_same_records_in_the_same_order(tmp_path: Path, algorithm: str) -> None:
    """With one runner; `appo` is left out, which learns while its runners go on sampling."""
    for name in ("one", "two"):
        _search(tmp_path / name, search__algorithm=algorithm, search__num_env_runners=1)

    one, two = (read_records(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 12
    assert [r.policy for r in one] == [r.policy for r in two]


@pytest.mark.parametrize(
    ("handling", "changes"),
    [
        ("clip", {"budget": {"macs": 0.5}}),
        ("clip", {"budget": {"size_bytes": 0.2, "macs": 0.6}}),
        ("decrement", {"budget": {"size_bytes": 0.3}, "space": {"pruning": {"max_ratio": 0.0}}}),
    ],
    ids=["amc", "amc-joint", "haq"],
)
@pytest.mark.slow
def test_published_methods_run_layer_by_layer_within_the_budget(
    tmp_path: Path, handling: str, changes: dict[str, Any]
) -> None:
    changes = {
        "search__algorithm": "tqc",
        "search__prior": "none",
        "search__episode": "layerwise",
        "search__budget_handling": handling,
        "objective__score": "accuracy",
        **changes,
    }
    progress, reason = _search(tmp_path, **changes)

    assert reason is None
    assert progress.done == 12
    problem = prepared(tmp_path, **changes).problem
    assert all(problem.budget.admits(record.costs) for record in read_records(tmp_path))


@pytest.mark.slow
def test_other_seed_gives_other_records(tmp_path: Path) -> None:
    for seed in (0, 1):
        _search(
            tmp_path / str(seed),
            search__num_env_runners=1,
            search__evaluations=8,
            search__seed=seed,
        )

    one, two = ({r.policy for r in read_records(tmp_path / seed)} for seed in ("0", "1"))
    assert one != two


def test_variants_that_hang_are_given_up_and_replaced(tmp_path: Path) -> None:
    progress, reason = _search(
        tmp_path,
        search__prior="none",
        objective__score="accuracy",
        evaluation__timeout_s=0.5,
        target__options={"hang_s": 600},
    )

    assert reason is None
    assert progress.done == len(read_records(tmp_path)) == 12
    failures = EvaluationStore(tmp_path / "evaluations").read_failures()
    assert len(failures) == progress.failures > 0
    assert {failure.worker for failure in failures} & {1, 2}
    assert all("evaluation.timeout_s" in failure.error for failure in failures)


@pytest.mark.slow
def test_variants_that_kill_their_env_runner_are_given_up(tmp_path: Path) -> None:
    progress, reason = _search(
        tmp_path,
        search__evaluations=12,
        search__prior="none",
        search__residual_scale=1.0,
        search__num_env_runners=1,
        objective__score="accuracy",
        target__options={"kills": True},
    )

    assert reason is None
    assert progress.done == len(read_records(tmp_path)) == 12
    failures = EvaluationStore(tmp_path / "evaluations").read_failures()
    assert failures
    assert all("died, 3 times" in failure.error for failure in failures)
    assert progress.lost >= 3 * len(failures)
    assert progress.retried >= 2 * len(failures)


@pytest.mark.slow
def test_full_disk_ends_the_search_with_all_that_was_stored(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    full = tmp_path / "evaluations.part-000006-000006.tmp"
    full.symlink_to("/dev/full")

    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        _search(tmp_path)

    assert 6 <= len(read_records(tmp_path)) <= 7
    full.unlink()
    progress, _ = _search(tmp_path)
    assert progress.done == len(read_records(tmp_path)) == 12


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, ray_session: Any) -> Any:
    """Return a reference to what the workers of a search need; it is not begun."""
    from rl_compress.agent.rllib import driver

    kits: list[Any] = []

    def keep(kit: Any, *_others: Any, **_more: Any) -> tuple[Progress, None]:
        kits.append(kit)
        return Progress(0, 12, 0, 0, None), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "run_rllib", keep)
        _search(tmp_path_factory.mktemp("kit"))
    return ray_session.put(kits[0])


@pytest.fixture
def coordinator(request: Any, tmp_path: Path, ray_session: Any, kit: Any) -> Iterator[Any]:
    """Yield a coordinator that is up, called as the test is; it is gone afterwards."""
    from rl_compress.agent.rllib.coordinator import start_coordinator

    store = EvaluationStore(RunDirectory(tmp_path).evaluations)
    actor = start_coordinator(request.node.name, store, 12, kit, 1)
    try:
        # A process that imports all this takes its time on a busy machine.
        ray_session.get(actor.progress.remote(), timeout=120)
        yield actor
    finally:
        ray_session.kill(actor)


def test_what_is_known_is_told_once_the_batch_is_published(
    ray_session: Any, coordinator: Any
) -> None:
    from rl_compress.agent.rllib.lease import Holder

    early = coordinator.published.remote(1)
    ray_session.get(coordinator.published.remote(0), timeout=30)
    assert ray_session.wait([early], timeout=0.5)[0] == []

    ray_session.get(coordinator.publish.remote(1))

    ray_session.get(early, timeout=30)
    # Told of only once: the prior.
    told = ray_session.get(coordinator.published.remote(1))
    assert told.after == 0
    # A successor does not know how many batches there were, and lets nobody wait.
    late = coordinator.published.remote(2)
    assert ray_session.wait([late], timeout=0.5)[0] == []
    ray_session.kill(coordinator, no_restart=False)
    ray_session.get(late, timeout=120)
    # Nobody waits or measures when the search has ended.
    ray_session.get(coordinator.dismiss.remote())
    claim = coordinator.claim.remote("a", 1, Holder("nobody", b""))
    assert ray_session.get(claim).status == "exhausted"


def test_env_that_fails_makes_the_driver_end_the_search(
    ray_session: Any, request: Any, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLlib by itself would make a new env and try again for ever."""
    import numpy as np
    from ray.rllib.env.env_context import EnvContext

    from rl_compress.agent.rllib.lease import Holder
    from rl_compress.agent.rllib.worker_env import WorkerEnv

    # This process is no actor.
    monkeypatch.setattr(Holder, "this_actor", lambda: Holder("nobody", b""))
    env = WorkerEnv(EnvContext({"coordinator": request.node.name}, worker_index=1))
    env.reset(seed=0)

    *_, terminated, _, info = env.step(np.array([np.nan], dtype=np.float32))

    assert terminated
    assert "diverged" in info["error"]
    _, broken = ray_session.get(coordinator.publish.remote())
    assert isinstance(broken, SearchStalledError)
    assert "learning_rate" in str(broken)
    claim = coordinator.claim.remote("another", 2, Holder("nobody", b""))
    assert ray_session.get(claim).status == "exhausted"


@pytest.mark.slow
def test_agent_that_learns_from_few_candidates_still_proposes_new_ones(tmp_path: Path) -> None:
    """Small updates must not narrow the agent to one variant long before the search is done."""
    progress, reason = _search(
        tmp_path,
        search__evaluations=24,
        search__ppo={"episodes_per_update": 4, "num_epochs": 2},
    )

    assert reason is None
    assert progress.done == 24


class _Killer(threading.Thread):
    """Kills one of the processes that left their id in a folder, once a condition holds."""

    def __init__(self, pids: Path, ready: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._ready = ready
        self.killed: int | None = None

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            runners = _runners(self._pids)
            if runners and self._ready():
                self.killed = min(runners)
                os.kill(self.killed, signal.SIGKILL)
                return
            time.sleep(0.02)


def _runners(pids: Path) -> set[int]:
    return {int(path.name) for path in pids.iterdir()} - {os.getpid()}


@pytest.mark.parametrize(
    "algorithm", ["ppo", *(pytest.param(a, marks=pytest.mark.slow) for a in ("appo", "sac", "tqc"))]
)
def test_killed_env_runner_costs_no_evaluation(tmp_path: Path, algorithm: str) -> None:
    pids, run = tmp_path / "pids", tmp_path / "run"
    pids.mkdir()
    killer = _Killer(pids, lambda: count_parts(run) >= 5)
    killer.start()

    progress, reason = _search(
        run,
        search__algorithm=algorithm,
        search__evaluations=16,
        target__options={"sleep_s": 0.15, "pids": str(pids)},
    )

    killer.join(timeout=5)
    assert killer.killed is not None
    assert reason is None
    records = read_records(run)
    assert progress.done == len(records) == len({r.policy_id for r in records}) == 16


# In the default run one is killed on a cluster of several nodes, see test_nodes.py.
@pytest.mark.slow
def test_killed_coordinator_costs_no_evaluation(tmp_path: Path) -> None:
    """The actor that keeps the ledger is restarted and reads what is stored."""
    import ray

    def kill() -> None:
        while count_parts(tmp_path) < 5:
            time.sleep(0.02)
        (name,) = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["name"].startswith("coordinator-")
        ]
        ray.kill(ray.get_actor(name, namespace="rl_compress"), no_restart=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    progress, reason = _search(tmp_path, search__evaluations=20, target__options={"sleep_s": 0.15})

    thread.join(timeout=5)
    assert not thread.is_alive()
    assert reason is None
    records = read_records(tmp_path)
    assert progress.done == len(records) == len({r.policy_id for r in records}) == 20


def test_driver_joins_a_running_cluster(tmp_path: Path, ray_session: Any) -> None:
    """With a target in its own current directory, of which the cluster knows nothing."""
    shutil.copy(INTEGRATION / "tiny_target.py", tmp_path / "target_of_a_visitor.py")
    job = write_job(
        tmp_path,
        target={"factory": "target_of_a_visitor:tiny"},
        search__algorithm="ppo",
        search__evaluations=4,
        search__num_env_runners=1,
        finetuning__epochs=0,
    )
    address = ray_session.get_runtime_context().gcs_address

    outcome = run_process(
        "search", job, "--output", "run", "--address", address, cwd=tmp_path, timeout_s=90
    )

    assert outcome.code == 0, outcome.stderr
    assert {record.worker for record in read_records(tmp_path / "run")} == {0, 1}
    assert ray_session.is_initialized()


@pytest.mark.parametrize("algorithm", get_args(RLAlgorithm))
def test_env_config_holds_names_only(algorithm: str) -> None:
    """A checkpoint with an object reference in it would abort the process that restores it."""
    from rl_compress.agent.rllib.algorithms import make_config

    settings = SearchConfig.model_validate({"algorithm": algorithm})
    config = make_config(settings, "coordinator-x", 4)

    assert json.loads(json.dumps(config.env_config)) == {"coordinator": "coordinator-x"}
