"""Variants that hang or fail: given up, stored, and never asked for again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import count_parts, finish, read_records, run_here, start, wait_for, write_job

from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.policy.search_space import Widths
from rl_compress.results.failure import Failure
from rl_compress.results.store import EvaluationStore


def _failures(run: Path) -> list[Failure]:
    return EvaluationStore(run / "evaluations").read_failures()


def test_hanging_variants_are_given_up_stored_and_counted(tmp_path: Path) -> None:
    job, run = (
        write_job(
            tmp_path,
            objective__score="accuracy",
            evaluation={"timeout_s": 0.5},
            target__options={"hang_s": 600},
        ),
        tmp_path / "run",
    )

    outcome = run_here("search", job, "--output", run)

    assert outcome.code == 0, outcome.stderr
    assert len(read_records(run)) == 12
    failures = _failures(run)
    assert failures
    assert len({failure.policy_id for failure in failures}) == len(failures)
    assert all("evaluation.timeout_s allows (0.5 s)" in failure.error for failure in failures)
    assert json.loads((run / "summary.json").read_text())["failures"] == len(failures)
    assert "could not be evaluated" in (run / "report.html").read_text(encoding="utf-8")


def test_failed_variants_are_not_tried_again_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = (
        write_job(
            tmp_path,
            search__evaluations=24,
            objective__score="accuracy",
            target__options={"fails": True, "sleep_s": 0.05},
        ),
        tmp_path / "run",
    )
    process = start("search", job, "--output", run, cwd=tmp_path)
    wait_for(lambda: count_parts(run) >= 4 and len(_failures(run)) >= 2, process)
    process.kill()
    finish(process)
    before = _failures(run)
    tried: list[tuple[int, ...]] = []
    measure = Evaluator._measure

    def noted(self: Evaluator, widths: Widths, rival: object) -> object:
        tried.append(tuple(widths.tolist()))
        return measure(self, widths, rival)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "_measure", noted)

    outcome = run_here("search", job, "--output", run, "--resume")

    assert outcome.code == 0, outcome.stderr
    assert tried
    assert len(set(tried)) == len(tried)
    after = _failures(run)
    assert after[: len(before)] == before
    assert len({failure.policy_id for failure in after}) == len(after)
    assert json.loads((run / "summary.json").read_text())["failures"] == len(after)
