from __future__ import annotations

import pytest

from rl_compress.report.formatting import (
    format_cell,
    format_cost,
    format_duration,
    format_fraction,
    format_latency,
    format_named_score,
    format_score,
    format_score_change,
    format_speedup,
    format_time,
    shorten_names,
)


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        ("macs", 1_200_000, "1.20M"),
        ("macs", 0, "0"),
        ("macs", 999, "999"),
        ("macs", 999_499, "999k"),
        ("macs", 999_600, "1.00M"),
        ("params", 12_345, "12.3k"),
        ("macs", 4_090_000_000, "4.09G"),
        ("size_bytes", 34_500, "34.5 kB"),
        ("size_bytes", 800, "800 B"),
        ("size_bytes", None, "n/a"),
    ],
)
def test_costs_have_three_digits_and_a_unit(cost: str, value: float, expected: str) -> None:
    assert format_cost(cost, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.814, "0.81 ms"), (12.34, "12.3 ms"), (123.4, "123 ms"), (1234.0, "1.23 s"), (None, "n/a")],
)
def test_latencies_are_in_milliseconds_up_to_a_second(value: float, expected: str) -> None:
    assert format_latency(value) == expected


def test_accuracy_is_in_percent_and_other_scores_are_not() -> None:
    assert format_score("accuracy", 98.94) == "98.9 %"
    assert format_score("fidelity", -0.093214) == "-0.09321"
    assert format_score("fidelity", float("nan")) == "n/a"
    assert format_score("accuracy", None) == "n/a"
    assert format_named_score("accuracy", 98.94) == "98.9 % accuracy"
    assert format_named_score("r2", 0.5) == "r2 0.5"


def test_changes_carry_their_sign() -> None:
    assert format_score_change("accuracy", 99.2, 98.9) == "-0.3 points"
    assert format_score_change("r2", 0.5, 0.75) == "+0.25"
    assert format_score_change("r2", 0.5, float("-inf")) == "n/a"
    assert format_speedup(1.7, 0.81) == "2.1x faster"
    assert format_speedup(1.0, 2.0) == "2x slower"
    assert format_speedup(1.0, 0.0) == "n/a"
    assert format_speedup(1.0, 0.5, [(0.9, 1.1), (0.4, 0.8)]) == "2x faster"
    assert format_speedup(1.0, 0.9, [(0.9, 1.1), (0.8, 0.95)]) == "no clear difference"
    assert format_fraction(0.2999) == "30.0 %"
    assert format_fraction(None) == "n/a"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(8.24, "8.2 s"), (720.0, "12 min"), (12_240.0, "3.4 h")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_times_are_readable_and_other_text_is_left_alone() -> None:
    assert format_time("2026-11-24T02:35:08+00:00") == "2026-11-24 02:35 UTC"
    assert format_time("yesterday") == "yesterday"


def test_long_names_keep_what_tells_them_apart() -> None:
    names = [f"backbone.stage{i}.blocks.2.depthwise_separable.conv" for i in range(3)]
    assert shorten_names(names)[1] == "backbone.stage1.blocks.2.depth….conv"
    assert shorten_names(["conv1", "conv2"]) == ["conv1", "conv2"]


def test_names_that_would_become_equal_are_left_whole() -> None:
    names = [f"a_very_long_name_of_a_layer_without_dots_{i}" for i in range(2)]
    assert shorten_names(names) == names


def test_cells_are_short_but_tell_close_scores_apart() -> None:
    assert format_cell(None) == "n/a"
    assert format_cell(0.9999727) == "0.999973"
    assert format_cell("inverse") == "inverse"
