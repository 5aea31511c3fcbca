from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
import zoo
from torch import Tensor, nn

from rl_compress.errors import EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import ClassificationTarget
from rl_compress.variants.compressor import Compressor

IDENTITY = RunIdentity(run="digits", algorithm="random", seed=7)
NARROW = np.array([3, 4, 8])  # 4, 6 and 10 units
OTHER = np.array([4, 4, 8])


@pytest.fixture
def ledger(store: EvaluationStore) -> EvaluationLedger:
    return EvaluationLedger(store, 2)


@pytest.fixture
def candidates(
    target: ClassificationTarget, compressor: Compressor, ledger: EvaluationLedger
) -> CandidateEvaluator:
    evaluator = Evaluator(target, compressor, "fidelity", EvaluationConfig())
    return CandidateEvaluator(
        evaluator,
        ledger,
        compressor.space,
        lambda score, costs: 10 * score + costs["params"],
        IDENTITY,
        worker=3,
    )


def test_a_candidate_is_measured_and_stored(
    candidates: CandidateEvaluator, compressor: Compressor, store: EvaluationStore
) -> None:
    record = candidates(NARROW, '{"decisions": {}}')
    assert record is not None
    policy = compressor.space.policy_of(NARROW)
    assert record.costs == compressor.costs.costs(NARROW)
    assert record.policy == '{"decisions": {}}'
    assert record.realised_policy() == policy
    assert record.policy_id == policy.policy_id
    assert record.score < 0
    assert record.reward == pytest.approx(10 * record.score + record.costs["params"])
    assert (record.run, record.algorithm, record.seed) == ("digits", "random", 7)
    assert (record.evaluation_id, record.worker, record.cached) == (0, 3, False)
    assert record.wall_s > 0
    assert abs((datetime.now(UTC) - record.time).total_seconds()) < 60
    assert store.read() == [record]


def test_without_a_candidate_the_realised_policy_is_recorded(
    candidates: CandidateEvaluator,
) -> None:
    record = candidates(NARROW)
    assert record is not None
    assert record.policy == record.realised


def test_a_variant_is_measured_once(candidates: CandidateEvaluator, store: EvaluationStore) -> None:
    first = candidates(NARROW)
    assert candidates(NARROW) is first
    assert len(store.read()) == 1


def test_there_is_no_record_when_the_run_is_exhausted(candidates: CandidateEvaluator) -> None:
    candidates(NARROW)
    candidates(OTHER)
    assert candidates(np.array([5, 4, 8])) is None
    assert candidates(NARROW) is not None


class Fragile(nn.Module):
    """Its outputs are not numbers with two hidden units, which no trial cut leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x.flatten(1)).relu())
        return y if self.first.out_features != 2 else y * float("nan")


class Breaking(Fragile):
    """It cannot run at all with two hidden units, which no trial cut leaves it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.first.out_features == 2:
            raise RuntimeError("too narrow")
        return super().forward(x)


MakeTarget = Callable[[Callable[[], nn.Module]], ClassificationTarget]


def _failing(
    kind: type[nn.Module], make_target: MakeTarget, ledger: EvaluationLedger
) -> CandidateEvaluator:
    model = kind().eval()
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    evaluator = Evaluator(
        make_target(lambda: model), compressor, "fidelity", EvaluationConfig(recalibration="none")
    )
    return CandidateEvaluator(
        evaluator, ledger, compressor.space, lambda score, _costs: score, IDENTITY
    )


@pytest.mark.parametrize(
    ("kind", "message"), [(Fragile, "scored nan"), (Breaking, "RuntimeError: too narrow")]
)
def test_a_variant_that_cannot_be_scored_is_an_error(
    kind: type[nn.Module],
    message: str,
    make_target: MakeTarget,
    ledger: EvaluationLedger,
    store: EvaluationStore,
) -> None:
    candidates = _failing(kind, make_target, ledger)
    with pytest.raises(EvaluationError, match=message):
        candidates(np.array([1]))
    with pytest.raises(EvaluationError, match="failed before"):
        candidates(np.array([1]))
    assert message in (ledger.last_error() or "")
    assert ledger.progress().failures == 1
    assert store.read() == []


def test_a_failure_leaves_the_place_to_others(
    make_target: MakeTarget, ledger: EvaluationLedger
) -> None:
    candidates = _failing(Fragile, make_target, ledger)
    with pytest.raises(EvaluationError):
        candidates(np.array([1]))
    assert candidates(np.array([2])) is not None
    assert candidates(np.array([3])) is not None
    assert candidates(np.array([4])) is None


def test_a_variant_that_another_worker_measures_is_waited_for(
    candidates: CandidateEvaluator, compressor: Compressor, ledger: EvaluationLedger
) -> None:
    other = candidates(OTHER)
    assert other is not None
    policy = compressor.space.policy_of(NARROW)
    claim = ledger.claim(policy.policy_id, worker=9)
    answers: list[EvaluationRecord | None] = []
    thread = threading.Thread(target=lambda: answers.append(candidates(NARROW)))
    thread.start()
    time.sleep(0.1)
    assert answers == []
    fields = {name: getattr(other, name) for name in other.__slots__}
    theirs = EvaluationRecord(
        **fields | {"policy_id": policy.policy_id, "evaluation_id": claim.evaluation_id}
    )
    ledger.complete(theirs)
    thread.join(timeout=10)
    assert answers == [theirs]


def test_a_variant_that_no_process_survives_is_stored_as_failed_with_its_policy(
    target: ClassificationTarget, compressor: Compressor, store: EvaluationStore
) -> None:
    policy = compressor.space.policy_of(NARROW)
    for _ in range(3):  # processes that did not come so far as to hand anything in
        EvaluationLedger(store, 2).claim(policy.policy_id, 3)
    evaluator = Evaluator(target, compressor, "fidelity", EvaluationConfig())
    candidates = CandidateEvaluator(
        evaluator,
        EvaluationLedger(store, 2),
        compressor.space,
        lambda score, _costs: score,
        IDENTITY,
        worker=3,
    )
    with pytest.raises(EvaluationError, match="died, 3 times"):
        candidates(NARROW)
    (failure,) = store.read_failures()
    assert (failure.policy_id, failure.policy) == (policy.policy_id, policy.to_json())
    assert candidates(OTHER) is not None
