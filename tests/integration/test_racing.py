"""A search with racing: what it drops is counted, and is never chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import read_records, run_here, write_job

from rl_compress.targets.target import ClassificationTarget


def test_dropped_variants_are_counted_and_never_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The split is small; in batches of this size there is something to compare after.
    monkeypatch.setitem(ClassificationTarget.__init__.__kwdefaults__, "batch_size", 16)
    job, run = (
        write_job(tmp_path, evaluation__racing=True, search__evaluations=12),
        tmp_path / "run",
    )

    outcome = run_here("search", job, "--output", run, "--verify", 12)

    assert outcome.code == 0, outcome.stderr
    records = read_records(run)
    dropped = {record.policy_id for record in records if not record.scored_in_full}
    assert 0 < len(dropped) < len(records) == 12
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dropped"] == len(dropped)
    assert 0.0 < summary["samples_saved"] < 1.0
    best = max(records, key=lambda record: record.reward)
    assert best.scored_in_full
    assert summary["best"]["policy_id"] == summary["delivered"]["policy_id"] == best.policy_id
    for name in ("pareto.parquet", "verification.parquet"):
        assert not dropped & set(pq.read_table(run / name)["policy_id"].to_pylist())
    assert "Racing dropped" in (run / "report.html").read_text(encoding="utf-8")
