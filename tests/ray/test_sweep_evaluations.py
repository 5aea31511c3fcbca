"""The sweep's store of measurements, asked by actors as trials are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from records import make_record

from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.sweeps.sweep_evaluations import RemoteEvaluations, start_evaluations


def _found(policy_id: str, score: float) -> EvaluationRecord:
    return make_record(-1, policy_id=policy_id, score=score)


def _worker(evaluations: RemoteEvaluations) -> Any:
    class Worker:
        """Does one thing after the other, as an env runner does."""

        def __init__(self, evaluations: RemoteEvaluations) -> None:
            self._evaluations = evaluations

        def claim(self, policy_id: str, key: str = "key") -> str:
            return self._evaluations.claim(key, policy_id).status

        def score(self, policy_id: str, key: str = "key") -> float | None:
            record = self._evaluations.claim(key, policy_id).record
            return record and record.score

        def complete(self, record: EvaluationRecord) -> None:
            self._evaluations.complete("key", record)

        def give_up(self, policy_id: str) -> None:
            self._evaluations.give_up("key", policy_id)

    return ray.remote(Worker).options(num_cpus=0, max_concurrency=1).remote(evaluations)


@pytest.fixture
def started(ray_session: Any, tmp_path: Path) -> Iterator[tuple[Any, RemoteEvaluations]]:
    actor, evaluations = start_evaluations(tmp_path / "evaluations")
    yield actor, evaluations
    ray.kill(actor, no_restart=True)


def test_a_variant_is_measured_once_for_all(
    started: tuple[Any, RemoteEvaluations], tmp_path: Path
) -> None:
    actor, evaluations = started
    first, second = _worker(evaluations), _worker(evaluations)
    assert ray.get(first.claim.remote("a")) == "granted"
    assert ray.get(second.claim.remote("a")) == "pending"
    assert ray.get(second.claim.remote("a", "other key")) == "granted"
    ray.get(first.complete.remote(_found("a", 0.5)))
    assert ray.get(second.claim.remote("a")) == "known"
    assert ray.get(second.score.remote("a")) == 0.5
    # What another process hands in late is dropped, not stored twice.
    ray.get(second.complete.remote(_found("a", 0.9)))
    assert [r.score for r in EvaluationStore(tmp_path / "evaluations" / "key").read()] == [0.5]
    assert ray.get(actor.measured.remote()) == 1


def test_a_lease_ends_when_it_is_given_up_or_its_holder_asks_for_another(
    started: tuple[Any, RemoteEvaluations],
) -> None:
    _, evaluations = started
    first, second = _worker(evaluations), _worker(evaluations)
    assert ray.get(first.claim.remote("a")) == "granted"
    ray.get(first.give_up.remote("a"))
    assert ray.get(second.claim.remote("a")) == "granted"
    assert ray.get(second.claim.remote("b")) == "granted"
    assert ray.get(first.claim.remote("a")) == "granted"


def test_a_lease_ends_with_the_process_that_holds_it(
    started: tuple[Any, RemoteEvaluations],
) -> None:
    _, evaluations = started
    first, second = _worker(evaluations), _worker(evaluations)
    assert ray.get(first.claim.remote("a")) == "granted"
    assert ray.get(second.claim.remote("a")) == "pending"
    ray.kill(first)
    deadline = time.monotonic() + 30
    while (status := ray.get(second.claim.remote("a"))) == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status == "granted"


def test_the_store_is_known_again_after_a_kill_and_in_a_resumed_sweep(
    started: tuple[Any, RemoteEvaluations], tmp_path: Path
) -> None:
    actor, evaluations = started
    worker = _worker(evaluations)
    ray.get(worker.complete.remote(_found("a", 0.5)))
    ray.get(worker.complete.remote(_found("b", 0.7)))
    ray.kill(actor, no_restart=False)
    assert ray.get(worker.score.remote("a")) == 0.5
    ray.get(actor.compact.remote())
    again, resumed = start_evaluations(tmp_path / "evaluations")
    assert ray.get(_worker(resumed).score.remote("b")) == 0.7
    assert ray.get(again.measured.remote()) == 2
    ray.kill(again, no_restart=True)
