from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.report.verification import (
    better_than_delivered,
    rank_correlation,
)
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.verified import SCHEMA, Verified

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Text = Callable[[list[Verified]], str]


def _rows(*after: float) -> list[Verified]:
    return [
        Verified(
            policy_id=f"policy{rank}",
            policy="{}",
            rank=rank,
            search_score=-0.1 * rank,
            before=50.0,
            after=score,
            seconds=2.0,
        )
        for rank, score in enumerate(after, start=1)
    ]


@pytest.fixture
def text(finished: Path, section: Callable[[Path, str], str]) -> Text:
    """Return a function of what a run verified: that section of its report."""

    def of(rows: list[Verified]) -> str:
        if rows:
            table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
            pq.write_table(table, RunDirectory(finished).verification)
        return section(finished, "Search and fine-tuning")

    return of


def test_the_same_order_correlates_by_one_and_the_opposite_by_minus_one() -> None:
    assert rank_correlation(_rows(99.0, 98.0, 97.0)) == pytest.approx(1.0)
    assert rank_correlation(_rows(97.0, 98.0, 99.0)) == pytest.approx(-1.0)


@given(st.lists(st.floats(0, 100), max_size=8))
def test_a_correlation_lies_between_minus_one_and_one_or_is_none(after: list[float]) -> None:
    found = rank_correlation(_rows(*after))
    assert found is None or -1.0 - 1e-9 <= found <= 1.0 + 1e-9


@pytest.mark.parametrize("after", [(), (99.0,), (99.0, 98.0), (99.0, math.nan, 98.0), (9.0,) * 5])
def test_where_there_is_nothing_to_order_there_is_no_correlation(after: tuple[float, ...]) -> None:
    assert rank_correlation(_rows(*after)) is None


def test_only_a_variant_that_does_better_than_the_delivered_one_is_named() -> None:
    assert better_than_delivered(_rows(99.0, 98.0, 99.0)) is None
    better = better_than_delivered(_rows(98.0, 99.0, 99.5, math.nan))
    assert better is not None
    assert better.rank == 3
    assert better_than_delivered([]) is None


@pytest.mark.parametrize(
    ("after", "said", "plots", "better"),
    [
        ((99.0, 98.0, 97.0), "+1.00, over 3 variants", 1, False),
        (
            (97.0, 99.0, 98.0),
            "place 2 does better than the delivered one: 99.0 % against 97.0 %",
            1,
            True,
        ),
        ((99.0, 98.0), "2 variants verified: too few for a rank correlation", 0, False),
        ((99.0, 99.0, 99.0), "their scores do not differ", 1, False),
    ],
)
def test_the_report_says_what_was_verified(
    text: Text, after: tuple[float, ...], said: str, plots: int, better: bool
) -> None:
    shown = text(_rows(*after))
    assert said in shown
    assert shown.count("<svg") == plots
    assert ("does better" in shown) == better


def test_a_run_that_was_not_verified_has_no_such_section(text: Text) -> None:
    assert text([]) == ""
