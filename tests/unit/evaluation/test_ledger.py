from __future__ import annotations

from pathlib import Path

import pytest
import records

from rl_compress.errors import StorageError
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore


def make_record(policy_id: str, evaluation_id: int, reward: float = 0.0) -> EvaluationRecord:
    return records.make_record(evaluation_id, policy_id=policy_id, score=reward)


def measure(ledger: EvaluationLedger, policy_id: str, reward: float = 0.0, worker: int = 0) -> None:
    claim = ledger.claim(policy_id, worker)
    assert claim.status == "granted"
    ledger.complete(make_record(policy_id, claim.evaluation_id, reward))


def test_a_new_variant_is_granted(store: EvaluationStore) -> None:
    claim = EvaluationLedger(store, 2).claim("a", 1)
    assert (claim.status, claim.evaluation_id, claim.record) == ("granted", 0, None)


def test_a_measured_variant_is_answered_from_the_cache(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 2)
    measure(ledger, "a", reward=0.5)
    claim = ledger.claim("a", 1)
    assert claim.status == "cached"
    assert claim.record == make_record("a", 0, 0.5)
    assert ledger.progress().cache_hits == 1


def test_a_variant_being_measured_is_pending_for_others(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    ledger.claim("a", 1)
    assert ledger.claim("a", 2).status == "pending"


def test_exactly_the_limit_is_granted(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 3)
    claims = [ledger.claim(policy, worker) for worker, policy in enumerate("abcde")]
    assert [claim.status for claim in claims] == ["granted"] * 3 + ["pending"] * 2
    for policy, claim in zip("abc", claims, strict=False):
        ledger.complete(make_record(policy, claim.evaluation_id))
    assert ledger.claim("d", 3).status == "exhausted"
    assert ledger.progress().exhausted
    assert len(store.read()) == 3


def test_an_exhausted_run_still_answers_what_it_knows(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 1)
    measure(ledger, "a")
    assert ledger.claim("b", 1).status == "exhausted"
    assert ledger.claim("a", 1).status == "cached"


def test_nothing_is_granted_out_of_turn_but_what_is_known_is_told(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 3)
    measure(ledger, "a")
    assert ledger.claim("b", 1, grants=False).status == "exhausted"
    assert ledger.claim("a", 1, grants=False).status == "cached"
    assert ledger.claim("b", 1).status == "granted"


def test_evaluations_are_numbered_in_the_order_granted(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    assert [ledger.claim(p, w).evaluation_id for w, p in enumerate("abc")] == [0, 1, 2]


def test_a_failure_frees_its_place(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 1)
    ledger.claim("a", 1)
    assert ledger.claim("b", 2).status == "pending"
    ledger.fail("a", 1, "RuntimeError: out of memory")
    assert ledger.claim("b", 2).status == "granted"


def test_a_failed_variant_is_never_granted_again(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    ledger.claim("a", 1)
    ledger.fail("a", 1, "RuntimeError: out of memory")
    assert ledger.claim("a", 2).status == "failed"
    assert ledger.progress().failures == 1


def test_the_last_error_is_remembered(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    assert ledger.last_error() is None
    for policy in "ab":
        ledger.claim(policy, 1)
        ledger.fail(policy, 1, f"error of {policy}")
    assert ledger.last_error() == "error of b"


def test_a_workers_new_claim_voids_its_old_one(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 2)
    ledger.claim("a", 1)
    ledger.claim("b", 1)
    assert ledger.claim("a", 2).status == "granted"
    assert ledger.claim("b", 3).status == "pending"


def test_a_workers_new_claim_leaves_those_of_others(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    ledger.claim("a", 1)
    ledger.claim("b", 2)
    assert ledger.claim("a", 3).status == "pending"


def test_a_restarted_worker_may_measure_its_variant_again(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 1)
    ledger.claim("a", 1)
    assert ledger.claim("a", 1).status == "granted"


def test_a_voided_claim_cannot_exceed_the_limit(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 1)
    late = ledger.claim("a", 1)
    ledger.claim("x", 1)  # taken for the successor of the worker that measures a
    second = ledger.claim("x", 1)
    ledger.complete(make_record("x", second.evaluation_id))
    ledger.complete(make_record("a", late.evaluation_id))
    assert [record.policy_id for record in store.read()] == ["x"]
    assert ledger.progress().done == 1


def test_a_second_record_of_a_variant_is_dropped(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    measure(ledger, "a", reward=0.5)
    ledger.complete(make_record("a", 7, reward=0.9))
    assert [record.reward for record in store.read()] == [0.5]
    assert ledger.progress().done == 1


def test_a_record_is_stored_when_it_is_handed_in(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    measure(ledger, "a", reward=0.5)
    assert store.read() == [make_record("a", 0, 0.5)]


def test_a_new_ledger_takes_over_the_store(store: EvaluationStore) -> None:
    first = EvaluationLedger(store, 3)
    for reward, policy in enumerate("ab"):
        measure(first, policy, reward=reward)
    first.claim("lost", 1)
    resumed = EvaluationLedger(store, 3)
    assert resumed.progress().done == 2
    assert resumed.claim("a", 0).status == "cached"
    assert resumed.claim("lost", 0).evaluation_id == 2
    best = resumed.progress().best
    assert best is not None
    assert best.policy_id == "b"


def test_a_store_that_holds_the_limit_is_exhausted(store: EvaluationStore) -> None:
    first = EvaluationLedger(store, 3)
    for policy in "abc":
        measure(first, policy)
    resumed = EvaluationLedger(store, 2)
    assert resumed.progress().exhausted
    assert resumed.claim("d", 0).status == "exhausted"


@pytest.mark.parametrize(
    ("rewards", "best"),
    [([0.1, 0.5, 0.3], 1), ([0.5, 0.5], 0), ([-1.0], 0)],
    ids=["highest", "first-of-equals", "only"],
)
def test_the_best_record(store: EvaluationStore, rewards: list[float], best: int) -> None:
    ledger = EvaluationLedger(store, 10)
    for index, reward in enumerate(rewards):
        measure(ledger, str(index), reward)
    found = ledger.progress().best
    assert found is not None
    assert found.evaluation_id == best


def test_of_equal_rewards_the_earlier_is_best_whenever_it_ends(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 10)
    first, second = ledger.claim("a", 1), ledger.claim("b", 2)
    ledger.complete(make_record("b", second.evaluation_id, 0.5))
    ledger.complete(make_record("a", first.evaluation_id, 0.5))
    found = ledger.progress().best
    assert found is not None
    assert found.policy_id == "a"


def test_progress_of_a_new_run(store: EvaluationStore) -> None:
    progress = EvaluationLedger(store, 10).progress()
    assert (progress.done, progress.limit, progress.best) == (0, 10, None)
    assert not progress.exhausted


def test_a_claim_names_the_best_of_the_worker_and_the_driver(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 10)
    for number, (worker, reward, share) in enumerate(
        [(0, 0.1, 1.0), (1, 0.3, 1.0), (2, 0.7, 1.0), (1, 0.9, 0.5)]
    ):
        claim = ledger.claim(str(number), worker)
        fields = {"policy_id": str(number), "worker": worker, "score": reward}
        ledger.complete(records.make_record(claim.evaluation_id, scored_share=share, **fields))
    for known in (ledger, EvaluationLedger(store, 10)):
        incumbents = [known.claim(f"new {worker}", worker).incumbent for worker in range(4)]
        # What others measured depends on timing, and an estimate is no incumbent.
        assert [one and one.evaluation_id for one in incumbents] == [0, 1, 2, 0]
    best = ledger.progress().best
    assert best is not None
    assert best.evaluation_id == 2


def test_the_first_variant_has_no_incumbent(store: EvaluationStore) -> None:
    assert EvaluationLedger(store, 10).claim("a", 0).incumbent is None


def test_failures_outlive_the_ledger(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    for policy in "ab":
        ledger.claim(policy, 3)
        ledger.fail(policy, 3, f"error of {policy}", f'{{"{policy}": 1}}')
    ledger.fail("a", 4, "once more")

    resumed = EvaluationLedger(store, 5)

    claim = resumed.claim("a", 0)
    assert (claim.status, claim.error) == ("failed", "error of a")
    assert resumed.progress().failures == 2
    assert resumed.last_error() == "error of b"
    failure = store.read_failures()[0]
    assert (failure.policy_id, failure.policy, failure.worker) == ("a", '{"a": 1}', 3)
    assert store.read() == []


def test_lost_and_repeated_measurements_are_counted_over_all_processes(
    store: EvaluationStore,
) -> None:
    first = EvaluationLedger(store, 5)
    measure(first, "a")
    first.claim("b", 1)
    first.claim("c", 2)
    assert first.progress().lost == 0
    first.claim("d", 1)  # the successor of the worker that measured b
    assert (first.progress().lost, first.progress().retried) == (1, 0)
    resumed = EvaluationLedger(store, 5)  # its predecessor was killed with two in flight
    assert resumed.progress().lost == 3
    measure(resumed, "b", worker=1)
    measure(resumed, "c", worker=2)
    assert (resumed.progress().lost, resumed.progress().retried) == (3, 2)


def test_a_variant_that_no_worker_survives_is_given_up(store: EvaluationStore) -> None:
    ledger = EvaluationLedger(store, 5)
    for _ in range(3):
        assert ledger.claim("a", 1).status == "granted"
    claim = ledger.claim("a", 1)
    assert claim.status == "deadly"
    assert "died, 3 times" in claim.error
    ledger.fail("a", 1, claim.error, "{}")
    assert EvaluationLedger(store, 5).claim("a", 2).status == "failed"
    assert ledger.progress().lost == EvaluationLedger(store, 5).progress().lost == 3


def test_a_full_disk_loses_nothing_that_was_stored(store: EvaluationStore, tmp_path: Path) -> None:
    ledger = EvaluationLedger(store, 5)
    measure(ledger, "a")
    claim = ledger.claim("b", 1)
    unfinished = tmp_path / "evaluations.part-000001-000001.tmp"
    unfinished.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"part-000001.*No space left on device.*--resume"):
        ledger.complete(make_record("b", claim.evaluation_id))
    assert [record.policy_id for record in store.read()] == ["a"]
    unfinished.unlink(missing_ok=True)
    resumed = EvaluationLedger(store, 5)
    measure(resumed, "b")
    assert [record.policy_id for record in store.read()] == ["a", "b"]
