from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.results.pareto import pareto_front
from rl_compress.results.record import EvaluationRecord

Point = tuple[int, int, int]


def _record(index: int, score: float, macs: int, params: int) -> EvaluationRecord:
    return EvaluationRecord(
        evaluation_id=index,
        run="",
        trial="",
        worker=0,
        algorithm="",
        policy="",
        policy_id=str(index),
        realised="",
        macs=macs,
        params=params,
        size_bytes=4 * params,
        score=score,
        reward=score,
        seed=0,
        wall_s=0.0,
        cached=False,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _front(points: list[Point], costs: list[str]) -> list[int]:
    records = [_record(index, *point) for index, point in enumerate(points)]
    return [record.evaluation_id for record in pareto_front(records, costs)]


def _dominates(a: Point, b: Point) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2] and a != b


SMALL = st.integers(0, 4)


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), max_size=25))
def test_front_is_that_of_brute_force(points: list[Point]) -> None:
    expected = [
        index
        for index, point in enumerate(points)
        if point not in points[:index] and not any(_dominates(other, point) for other in points)
    ]
    assert _front(points, ["macs", "params"]) == expected


@given(st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=25))
def test_costs_that_are_not_asked_for_do_not_count(points: list[tuple[int, int]]) -> None:
    with_params = [(score, macs, index) for index, (score, macs) in enumerate(points)]
    without = [(score, macs, 0) for score, macs in points]
    assert _front(with_params, ["macs"]) == _front(without, ["macs"])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(1, 5, 5)], [0], id="one"),
        pytest.param([(1, 5, 5), (2, 5, 5)], [1], id="better-score"),
        pytest.param([(1, 5, 5), (1, 4, 5)], [1], id="cheaper"),
        pytest.param([(2, 5, 5), (1, 4, 5)], [0, 1], id="trade-off"),
        pytest.param([(1, 5, 5), (1, 5, 5)], [0], id="equal-ones-count-once"),
    ],
)
def test_known_fronts(points: list[Point], expected: list[int]) -> None:
    assert _front(points, ["macs", "params"]) == expected
