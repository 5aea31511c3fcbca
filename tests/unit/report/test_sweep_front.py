from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from records import make_record

from rl_compress.report.run_files import RunFiles, read_run
from rl_compress.report.sweep_front import SweepFront
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore

START = datetime(2026, 1, 1, tzinfo=UTC)

# Trial, second, MACs of 1000, score, answered from another trial's.
MEASURED = [
    ("a", 0, 800, 0.0, False),
    ("b", 1, 500, 4.0, False),
    ("a", 2, 500, 4.0, True),
    ("a", 3, 900, 8.0, False),
    ("b", 4, 600, 2.0, False),
]


def _runs(folder: Path, **costs: float) -> dict[str, RunFiles]:
    found = {}
    for trial in ("a", "b"):
        run = RunDirectory(folder / trial)
        run.create("name: sweep\n")
        run.write_json("space.json", {"groups": [], "costs": costs or {"macs": 1000}})
        store = EvaluationStore(run.evaluations)
        for number, (_, second, macs, score, cached) in enumerate(
            entry for entry in MEASURED if entry[0] == trial
        ):
            time = START + timedelta(seconds=second)
            fields: dict[str, Any] = {"trial": trial, "macs": macs, "score": score}
            store.append(make_record(number, **fields, cached=cached, time=time))
        found[trial] = read_run(run.path)
    return found


def test_volumes_have_one_reference_for_all_trials(tmp_path: Path) -> None:
    front = SweepFront(_runs(tmp_path), ["score", "macs"])
    # Of scores from 0 to 8 and costs up to all: a dominates half the scores at half the costs and
    # the rest at .9, b the former alone.
    assert front.volume_of("a") == pytest.approx(0.5 * 0.5 + 0.5 * 0.1)
    assert front.volume_of("b") == pytest.approx(0.5 * 0.5)
    assert front.volume_of("c") is None


def test_the_front_is_of_all_trials_and_the_first_of_equals(tmp_path: Path) -> None:
    front = SweepFront(_runs(tmp_path), ["score", "macs"]).front()
    assert [(record.trial, record.costs["macs"]) for record in front] == [("b", 500), ("a", 900)]


def test_the_course_counts_each_variant_once_in_the_order_of_time(tmp_path: Path) -> None:
    course = SweepFront(_runs(tmp_path), ["score", "macs"]).course()
    assert [number for number, _ in course] == [1, 2, 3, 4]
    assert [volume for _, volume in course] == pytest.approx([0.0, 0.25, 0.30, 0.30])


def test_a_long_course_is_drawn_at_fewer_points_but_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_compress.report.sweep_front._MOST_STEPS", 2)
    full = SweepFront(_runs(tmp_path / "long"), ["score", "macs"]).course()
    assert [number for number, _ in full] == [2, 4]
    assert full[-1][1] == pytest.approx(0.30)


def test_trials_without_the_original_of_a_cost_are_left_out(tmp_path: Path) -> None:
    front = SweepFront(_runs(tmp_path, params=10), ["score", "macs"])
    assert front.volume_of("a") is None
    assert front.front() == []
    assert front.course() == []
