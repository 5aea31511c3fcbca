from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record

from rl_compress.runs.pareto import front_hypervolume, pareto_front
from rl_compress.runs.record import EvaluationRecord

Point = tuple[int, int, int]


def _record(index: int, score: float, macs: int, params: int) -> EvaluationRecord:
    return make_record(index, score=score, macs=macs, params=params, size_bytes=4 * params)


def _front(points: list[Point], costs: list[str]) -> list[int]:
    records = [_record(index, *point) for index, point in enumerate(points)]
    return [record.evaluation_id for record in pareto_front(records, ["score", *costs])]


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


def test_what_is_not_finite_or_not_measured_is_on_no_front() -> None:
    records = [
        make_record(0, score=math.nan, macs=1),
        make_record(1, score=0.5, macs=5, latency_ms=2.0),
        make_record(2, score=0.9, macs=5),
    ]
    assert [r.evaluation_id for r in pareto_front(records, ["score", "macs"])] == [2]
    assert [r.evaluation_id for r in pareto_front(records, ["score", "latency_ms"])] == [1]


def test_the_front_may_be_over_costs_alone() -> None:
    records = [make_record(0, macs=1, params=9), make_record(1, macs=2, params=8)]
    records.append(make_record(2, macs=2, params=9, score=1.0))
    assert [r.evaluation_id for r in pareto_front(records, ["macs", "params"])] == [0, 1]


def test_hypervolume_of_records_is_in_fractions_of_the_original_costs() -> None:
    records = [make_record(0, score=0.8, macs=500), make_record(1, score=0.6, macs=250)]
    volume = front_hypervolume(
        records, ["score", "macs"], lowest_score=0.0, original_costs={"macs": 1000.0}
    )
    assert volume == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)


def test_estimates_of_dropped_variants_count_neither_for_the_front_nor_the_volume() -> None:
    records = [make_record(0, score=-1.0, macs=500)]
    dropped = make_record(1, score=-0.1, macs=100, scored_share=0.5)
    assert pareto_front([*records, dropped], ["score", "macs"]) == records
    bounds = {"lowest_score": -2.0, "original_costs": {"macs": 1000}}
    assert front_hypervolume([*records, dropped], ["score", "macs"], **bounds) == pytest.approx(0.5)
