from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import zoo
from torch import Tensor, nn

from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.evaluation.measurement import Measurement, RunIdentity
from rl_compress.evaluation.racing import Rival
from rl_compress.evaluation.shared import Answer, SharedEvaluator, Sharing
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import ClassificationTarget
from rl_compress.variants.compressor import Compressor

NARROW = np.array([3, 4, 8])  # 4, 6 and 10 units


@dataclass
class Shelf:
    """Measurements within this process."""

    records: dict[tuple[str, str], EvaluationRecord] = field(default_factory=dict)
    leased: set[tuple[str, str]] = field(default_factory=set)

    def claim(self, key: str, policy_id: str) -> Answer:
        if (key, policy_id) in self.records:
            return Answer("known", self.records[key, policy_id])
        if (key, policy_id) in self.leased:
            return Answer("pending")
        self.leased.add((key, policy_id))
        return Answer("granted")

    def complete(self, key: str, record: EvaluationRecord) -> None:
        self.records[key, record.policy_id] = record
        self.give_up(key, record.policy_id)

    def give_up(self, key: str, policy_id: str) -> None:
        self.leased.remove((key, policy_id))


class Counting(Evaluator):
    """Counts what is really measured; variants are dropped by any rival."""

    count = 0

    def evaluate(self, levels: Levels, rival: Rival | None = None) -> Measurement:
        self.count += 1
        found = super().evaluate(levels)
        if rival is None:
            return found
        return Measurement(found.score, found.costs, found.wall_s, 0.5)


@pytest.fixture
def own(target: ClassificationTarget, compressor: Compressor) -> Counting:
    return Counting(target, compressor, "fidelity", EvaluationConfig())


def _of(own: Evaluator, compressor: Compressor, shelf: Shelf, trial: str) -> SharedEvaluator:
    return SharedEvaluator(own, compressor.space, Sharing(shelf, "key", trial), worker=2)


def test_another_trial_gets_what_one_measured(own: Counting, compressor: Compressor) -> None:
    shelf = Shelf()
    first = _of(own, compressor, shelf, "a").evaluate(NARROW)
    other = _of(own, compressor, shelf, "b").evaluate(NARROW)
    assert own.count == 1
    assert (first.cached, other.cached) == (False, True)
    assert (other.score, other.costs, other.wall_s) == (first.score, first.costs, first.wall_s)
    (record,) = shelf.records.values()
    assert (record.trial, record.worker, record.cached) == ("a", 2, False)
    assert record.realised_policy() == compressor.space.policy_of(NARROW)
    # A trial that was interrupted knows its own again, and did not borrow it.
    assert not _of(own, compressor, shelf, "a").evaluate(NARROW).cached
    assert own.count == 1


def test_other_keys_are_other_variants(own: Counting, compressor: Compressor) -> None:
    shelf = Shelf()
    for key in ("one", "two"):
        SharedEvaluator(own, compressor.space, Sharing(shelf, key, "a")).evaluate(NARROW)
    assert own.count == 2


def test_who_comes_second_waits(own: Counting, compressor: Compressor) -> None:
    shelf = Shelf()
    policy_id = compressor.space.policy_of(NARROW).policy_id
    shelf.claim("key", policy_id)
    found: list[Measurement] = []
    waiting = _of(own, compressor, shelf, "b")
    thread = threading.Thread(target=lambda: found.append(waiting.evaluate(NARROW)))
    thread.start()
    thread.join(timeout=0.2)
    assert thread.is_alive()
    assert own.count == 0
    shelf.give_up("key", policy_id)
    thread.join(timeout=30)
    assert own.count == 1
    assert not found[0].cached


def test_what_was_dropped_in_a_race_is_not_shared(own: Counting, compressor: Compressor) -> None:
    shelf = Shelf()
    rival = Rival(np.array([4, 4, 8]), 0.0, lambda _costs: 0.0)
    assert _of(own, compressor, shelf, "a").evaluate(NARROW, rival).scored_share == 0.5
    assert shelf == Shelf()
    assert _of(own, compressor, shelf, "b").evaluate(NARROW).scored_share == 1.0
    assert own.count == 2


class Broken(nn.Module):
    """It cannot run with two hidden units, which no trial cut leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.first.out_features == 2:
            raise RuntimeError("too narrow")
        return self.last(self.first(x.flatten(1)).relu())


def test_a_failure_leaves_the_variant_to_others(
    make_target: Callable[[Callable[[], nn.Module]], ClassificationTarget],
) -> None:
    model = Broken().eval()
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    target = make_target(lambda: model)
    own = Counting(target, compressor, "fidelity", EvaluationConfig(recalibration="none"))
    shelf = Shelf()
    with pytest.raises(RuntimeError, match="too narrow"):
        _of(own, compressor, shelf, "a").evaluate(np.array([1]))
    assert shelf == Shelf()


def test_a_trial_counts_and_weighs_what_it_borrows(
    own: Counting, compressor: Compressor, store: EvaluationStore
) -> None:
    shelf = Shelf()
    found = _of(own, compressor, shelf, "a").evaluate(NARROW)
    candidates = CandidateEvaluator(
        _of(own, compressor, shelf, "b"),
        EvaluationLedger(store, 1),
        compressor.space,
        lambda score, costs: 2 * score - costs["macs"],
        RunIdentity(run="b", trial="b", algorithm="random", seed=0),
    )
    record = candidates(NARROW)
    assert record is not None
    assert record.cached
    assert record.reward == 2 * found.score - found.costs["macs"]
    assert store.read() == [record]
    assert candidates(np.array([4, 4, 8])) is None
    assert own.count == 1
