"""A search with its evidence: the best fine-tuned, baselines beside it, figures for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import read_records, run_here, write_job

from rl_compress.export import fine_tuned
from rl_compress.runs.verified import load_verified
from rl_compress.training.recovery import finetune

OPTIONS = ("--verify", 4, "--baselines", "uniform,greedy", "--seeds", 2)


def test_search_is_verified_and_compared_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return finetune(*args, **kwargs)

    monkeypatch.setattr(fine_tuned, "finetune", counted)
    job, run = write_job(tmp_path), tmp_path / "run"

    first = run_here("search", job, "--output", run, *OPTIONS)

    assert first.code == 0, first.stderr
    # The delivered variant is not fine-tuned twice, and one was rehearsed with.
    assert len(calls) == 5
    rows = load_verified(run / "verification.parquet")
    ranked = sorted(read_records(run), key=lambda record: -record.reward)
    assert [row.policy_id for row in rows] == [record.policy_id for record in ranked[:4]]
    names = sorted(path.name for path in (run / "baselines").iterdir())
    assert names == ["greedy-seed0", "greedy-seed1", "random-seed1", "uniform-seed0"]
    for name in names:
        records = read_records(run / "baselines" / name)
        assert len(records) == 12
        assert {f"{record.algorithm}-seed{record.seed}" for record in records} == {name}
    summary = json.loads((run / "summary.json").read_text())
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    assert summary["best"]["policy_id"] == manifest["policy_id"] == rows[0].policy_id
    assert rows[0].after == manifest["scores"]["search"]["delivered"]
    assert summary["compared"]["random"]["seeds"] == 2
    assert summary["compared"]["greedy"]["sensitivity_evaluations"] > 1
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Against baselines" in report
    assert "Search and fine-tuning" in report
    better = max(row.after for row in rows) > rows[0].after
    assert (run / "better_policy.json").exists() == better

    calls.clear()
    again = run_here("search", job, "--output", run, "--resume", *OPTIONS)

    assert again.code == 0, again.stderr
    assert len(calls) == 1  # delivery alone
    assert load_verified(run / "verification.parquet") == rows
    assert all(len(read_records(run / "baselines" / name)) == 12 for name in names)


def test_an_unknown_baseline_is_bad_input_and_nothing_is_written(tmp_path: Path) -> None:
    outcome = run_here(
        "search", write_job(tmp_path), "-o", tmp_path / "run", "--baselines", "random,contribution"
    )
    assert outcome.code == 2
    assert "--baselines: must be among" in outcome.error
    assert "'contribution'" in outcome.error
    assert not (tmp_path / "run").exists()


def test_without_the_options_there_is_a_summary_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_here("search", write_job(tmp_path), "-o", run).code == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["evaluations"] == 12
    assert (summary["verification"], summary["compared"]) == (None, {})
    assert not (run / "baselines").exists()
    assert not (run / "verification.parquet").exists()
