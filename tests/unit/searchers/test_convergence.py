from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record

from rl_compress.evaluation.ledger import Progress
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.convergence import Convergence, evaluations_since_best


def _records(rewards: list[float], first: int = 0) -> list[EvaluationRecord]:
    return [make_record(first + number, score=reward) for number, reward in enumerate(rewards)]


def _progress(records: list[EvaluationRecord]) -> Progress:
    best = max(records, key=lambda r: (r.reward, -r.evaluation_id), default=None)
    return Progress(done=len(records), limit=1000, cache_hits=0, failures=0, best=best)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([], 0), ([1.0], 0), ([1.0, 2.0], 0), ([2.0, 1.0, 0.0], 2), ([1.0, 2.0, 2.0], 1)],
)
def test_evaluations_since_the_best(rewards: list[float], expected: int) -> None:
    assert evaluations_since_best(_records(rewards)) == expected


def test_records_count_in_the_order_of_their_ids() -> None:
    records = [make_record(9, score=0.0), make_record(2, score=1.0), make_record(0, score=0.5)]
    assert evaluations_since_best(records) == 1


def test_a_search_ends_when_the_last_evaluations_brought_nothing() -> None:
    records = _records([0.0, 3.0])
    rule = Convergence(3, lambda: records)
    assert rule.reason(_progress(records)) is None
    records += _records([1.0, 2.0], first=2)
    assert rule.reason(_progress(records)) is None
    records += _records([3.0], first=4)
    assert rule.reason(_progress(records)) == "converged: no better policy in 3 evaluations"


def test_without_patience_a_search_never_converges() -> None:
    records = _records([1.0] + [0.0] * 500)
    assert Convergence(None, lambda: records).reason(_progress(records)) is None


def test_nothing_has_converged_before_the_first_record() -> None:
    assert Convergence(1, list).reason(_progress([])) is None


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8),
    st.integers(1, 6),
    st.sets(st.integers(0, 40)),
)
def test_a_resumed_search_ends_where_an_uninterrupted_one_does(
    batches: list[list[int]], patience: int, skipped: set[int]
) -> None:
    """Whatever was seen in between, and with ids missing because variants failed."""
    records: list[EvaluationRecord] = []
    rule, number = Convergence(patience, lambda: records), 0
    for batch in batches:
        for reward in batch:
            while number in skipped:
                number += 1
            records.append(make_record(number, score=float(reward)))
            number += 1
        found = rule.reason(_progress(records))
        assert found == Convergence(patience, lambda: records).reason(_progress(records))
        assert (found is not None) == (
            bool(records) and evaluations_since_best(records) >= patience
        )


def test_records_are_not_read_without_need() -> None:
    records, reads = _records([0.0]), []

    def read() -> list[EvaluationRecord]:
        reads.append(len(records))
        return records

    rule = Convergence(10, read)
    for number in range(1, 9):
        records.append(make_record(number, score=0.0))
        rule.reason(_progress(records))
    assert reads == []
    records += _records([0.0, 0.0], first=9)
    assert rule.reason(_progress(records)) is not None
    assert reads == [11]


def test_records_are_not_read_while_rewards_improve() -> None:
    records: list[EvaluationRecord] = []

    def read() -> list[EvaluationRecord]:
        raise AssertionError("not needed")

    rule = Convergence(3, read)
    for number in range(20):
        records.append(make_record(number, score=float(number)))
        assert rule.reason(_progress(records)) is None
