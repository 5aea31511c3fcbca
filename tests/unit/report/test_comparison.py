from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records import make_record

from rl_compress.evaluation.ledger import Progress
from rl_compress.report.comparison import (
    contenders,
    count_sensitivity_evaluations,
)
from rl_compress.report.run_files import read_run
from rl_compress.report.run_summary import summarize
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Section = Callable[[Path, str], str]


def _add(run: Path, algorithm: str, seed: int, scores: list[float]) -> RunDirectory:
    beside = RunDirectory(RunDirectory(run).baselines / f"{algorithm}-seed{seed}")
    store = EvaluationStore(beside.evaluations)
    for number, score in enumerate(scores):
        store.append(make_record(number, algorithm=algorithm, seed=seed, score=score))
    return beside


@pytest.fixture
def compared(searched: Path) -> Path:
    _add(searched, "random", 0, [-3.0, -2.0, -2.5, -1.0])
    _add(searched, "random", 1, [-4.0, -4.0, -1.0, -2.0])
    greedy = _add(searched, "greedy", 0, [-0.4, -0.5])
    rows = [{"group": g, "pruning_ratio": r, "score": 0.0} for g in "ab" for r in (0.0, 0.5, 0.9)]
    pq.write_table(pa.Table.from_pylist(rows), greedy.sensitivity)
    return searched


def test_the_search_comes_first_then_the_baselines_by_what_they_found(compared: Path) -> None:
    found = contenders(read_run(compared))
    assert [one.algorithm for one in found] == ["ppo", "greedy", "random"]
    assert [len(one.best) for one in found] == [1, 1, 2]


def test_seeds_are_averaged_at_equal_numbers_of_evaluations(compared: Path) -> None:
    random = contenders(read_run(compared))[-1]
    assert random.after(2)[0].tolist() == [-2.0, -4.0]
    assert random.together().tolist() == [[-3.0, -2.0, -2.0, -1.0], [-4.0, -4.0, -1.0, -1.0]]


def test_a_baseline_that_ended_early_says_after_how_many(compared: Path, section: Section) -> None:
    greedy = contenders(read_run(compared))[1]
    assert greedy.after(4) == (pytest.approx([-0.4]), 2)
    assert "-0.4 (it ended after 2)" in section(compared, "Against baselines")


def test_sensitivity_evaluations_are_named_beside(compared: Path) -> None:
    files = read_run(compared)
    assert count_sensitivity_evaluations(files.sensitivity) == 3
    assert [one.sensitivity_evaluations for one in contenders(files)] == [3, 5, 0]
    assert count_sensitivity_evaluations([]) == 0


def test_the_report_shows_the_comparison(compared: Path, section: Section) -> None:
    text = section(compared, "Against baselines")
    assert "best fidelity so far of ppo, greedy, random" in text


def test_without_baselines_the_report_has_no_such_section(searched: Path, section: Section) -> None:
    assert section(searched, "Against baselines") == ""


def test_what_is_maximised_is_called_reward_where_costs_are_traded(searched: Path) -> None:
    assert read_run(searched).maximised == "fidelity"
    job = "name: a\nobjective: {score: fidelity, weights: {score: 1.0, macs: 0.5}}\n"
    (searched / "job.yaml").write_text(job)
    assert read_run(searched).maximised == "reward"


def test_the_summary_has_the_key_figures(compared: Path) -> None:
    files = read_run(compared)
    best = files.evaluations[-1]
    progress = Progress(done=4, limit=4, cache_hits=7, failures=1, best=best)
    summary = summarize(files, progress)
    assert summary["best"]["score"] == best.score
    assert summary["best"]["costs"]["macs"] == best.costs["macs"]
    assert (summary["evaluations"], summary["cache_hits"], summary["failures"]) == (4, 7, 1)
    assert summary["sensitivity_evaluations"] == 3
    assert summary["verification"] is None
    assert summary["delivered"] is None
    assert summary["compared"]["random"] == {
        "seeds": 2,
        "mean": -1.0,
        "lowest": -1.0,
        "highest": -1.0,
        "evaluations": 4,
        "sensitivity_evaluations": 0,
    }


def test_curves_of_bits_are_counted_too() -> None:
    rows = [
        {"group": "a", "decides": decides, "pruning_ratio": ratio}
        for decides, ratios in (("pruning_ratio", (0.0, 0.5)), ("weight_bits", (None,) * 3))
        for ratio in ratios
    ]
    assert count_sensitivity_evaluations(rows) == 1 + 1 + 2
    assert count_sensitivity_evaluations([]) == 0
