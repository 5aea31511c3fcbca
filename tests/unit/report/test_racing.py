from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import make_record

from rl_compress.evaluation.ledger import Progress
from rl_compress.report.report import build_report
from rl_compress.report.run_files import read_run
from rl_compress.report.run_summary import dropped_early, samples_saved, summarize
from rl_compress.runs.store import EvaluationStore

RECORDS = [make_record(0), make_record(1, scored_share=0.25), make_record(2, scored_share=0.5)]


def test_dropped_variants_and_saved_samples_are_counted() -> None:
    assert dropped_early(RECORDS) == 2
    assert samples_saved(RECORDS) == pytest.approx((0.75 + 0.5) / 3)
    assert samples_saved([]) == 0.0


def test_report_and_summary_tell_what_was_spared(searched: Path) -> None:
    before = build_report(searched).read_text(encoding="utf-8")
    assert "Racing" not in before
    assert "measured before" not in before
    dropped = make_record(4, score=5.0, scored_share=0.25)
    EvaluationStore(searched / "evaluations").append(dropped)
    files = read_run(searched)
    best = files.evaluations[3]
    progress = Progress(done=5, limit=5, cache_hits=7, failures=0, best=best)
    summary = summarize(files, progress)
    assert (summary["dropped"], summary["cache_hits"]) == (1, 7)
    assert summary["samples_saved"] == pytest.approx(0.15)
    (searched / "summary.json").write_text(json.dumps(summary))
    text = build_report(searched).read_text(encoding="utf-8")
    assert "Racing dropped 1 of them early" in text
    assert "saved 15% of the samples" in text
    assert "7 candidates had been measured before" in text
    # Its estimate is higher than any score, and yet it is not the best.
    assert "best fidelity -0.1" in text
