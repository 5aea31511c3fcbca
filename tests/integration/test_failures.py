"""Variants that hang, fail or kill their process: given up, stored, never asked for again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from running import (
    count_parts,
    finish,
    read_records,
    run_here,
    run_process,
    start,
    wait_for,
    write_job,
)

from rl_compress import load_job
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.runs.failure import Failure
from rl_compress.runs.store import EvaluationStore
from rl_compress.space.search_space import Levels


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

    def noted(self: Evaluator, levels: Levels, rival: object) -> object:
        tried.append(tuple(levels.tolist()))
        return measure(self, levels, rival)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "_measure", noted)

    outcome = run_here("search", job, "--output", run, "--resume")

    assert outcome.code == 0, outcome.stderr
    assert tried
    assert len(set(tried)) == len(tried)
    after = _failures(run)
    assert after[: len(before)] == before
    assert len({failure.policy_id for failure in after}) == len(after)
    assert json.loads((run / "summary.json").read_text())["failures"] == len(after)


def test_variants_that_kill_the_process_do_not_kill_the_run(tmp_path: Path) -> None:
    """Here it is the driver that evaluates, and each time dies with it."""
    job = write_job(
        tmp_path,
        search__evaluations=6,
        objective__score="accuracy",
        target__options={"kills": True},
    )
    run, killed = tmp_path / "run", 0
    outcome = run_process("search", job, "--output", run, cwd=tmp_path)
    while outcome.code == -signal.SIGKILL and killed < 9:
        killed += 1
        outcome = run_process("search", job, "--output", run, "--resume", cwd=tmp_path)

    assert outcome.code == 0, outcome.stderr
    assert len(read_records(run)) == 6
    failures = _failures(run)
    assert killed == 3 * len(failures) > 0
    assert all("died, 3 times" in failure.error for failure in failures)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["lost"], summary["retried"]) == (killed, 2 * len(failures))
    assert f"{killed} evaluations ended with the process" in (run / "report.html").read_text()


def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    job, run = write_job(tmp_path), tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    full = run / "evaluations.part-000007-000007.tmp"
    full.symlink_to("/dev/full")
    (run / "job.yaml").write_text(load_job(job).to_yaml(), encoding="utf-8")

    outcome = run_here("search", job, "--output", run, "--resume")

    assert outcome.code == 1
    assert "No space left on device" in outcome.error
    assert "--resume" in outcome.error
    assert len(read_records(run)) == 7
    full.unlink(missing_ok=True)
    outcome = run_here("search", job, "--output", run, "--resume")
    assert outcome.code == 0, outcome.stderr
    assert len(read_records(run)) == 12
