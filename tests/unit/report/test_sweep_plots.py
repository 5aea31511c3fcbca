from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from rl_compress.report.sweep_keys import Importances, column
from rl_compress.report.sweep_plots import (
    heat_map,
    importance_bars,
    loss_curves,
    parallel_coordinates,
    volume_curve,
)


def _heat_map(rows: list[dict[str, Any]]) -> str:
    return heat_map(*(column(rows, key) for key in ("a", "b", "score")), score="r2")


def _labels(svg: str) -> int:
    """Count the groups that hold text, which is drawn as paths."""
    groups = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    return sum("-text_" in group.get("id", "") for group in groups)


def test_cells_hold_the_best_of_their_trials() -> None:
    rows = [
        {"a": 0.1, "b": 1, "score": 0.25},
        {"a": 0.1, "b": 1, "score": 0.75},
        {"a": 0.3, "b": 2, "score": 0.5},
    ]
    first = _heat_map(rows)
    assert first == _heat_map(rows[1:])
    assert first != _heat_map(rows[:1] + rows[2:])


def test_values_that_are_drawn_are_put_into_bins() -> None:
    few = [{"a": float(i), "b": i % 2, "score": float(i)} for i in range(8)]
    many = [{"a": i / 7, "b": i % 2, "score": float(i)} for i in range(70)]
    # Six columns of two cells: each has its figure written into it, and each column its bounds.
    assert _labels(_heat_map(many)) < _labels(_heat_map(few)) + 6


def test_words_have_an_axis_too() -> None:
    rows = [{"a": word, "b": 1 + i, "score": i} for i, word in enumerate(("hard", "soft", "hard"))]
    assert "3 trials" in parallel_coordinates([column(rows, key) for key in ("a", "b", "score")])


def test_labels_of_an_axis_do_not_overlap() -> None:
    apart = [{"a": value, "score": value} for value in (0.0, 0.3, 1.0)]
    close = [{"a": value, "score": value} for value in (0.0, 0.01, 1.0)]
    one, two = (
        _labels(parallel_coordinates([column(rows, key) for key in ("a", "score")]))
        for rows in (apart, close)
    )
    assert one - two == 2


def test_each_figure_has_a_bar_for_each_key() -> None:
    found = Importances(np.array([0.5, 0.1]), np.array([0.1, 0.1]), 0.3)
    keys = ["contribution.alpha", "search.seed"]
    one = importance_bars(keys, {"best_score": found})
    two = importance_bars(keys, {"best_score": found, "delivered_score": found})
    assert one != two
    assert "importance of 2 keys" in one


def test_the_course_ends_with_all_variants() -> None:
    assert "over 12 variants" in volume_curve([(6, 0.25), (12, 0.5)])


def test_loss_curves_of_many_trials_have_no_legend() -> None:
    few = loss_curves({f"trial {i}": [1.0, 0.5] for i in range(3)})
    many = loss_curves({f"trial {i}": [1.0, 0.5] for i in range(30)})
    assert "3 trials" in few
    assert "30 trials" in many
