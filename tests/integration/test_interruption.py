"""Ctrl-C in every phase: one line, exit code 1, what was measured is kept, `--resume` goes on."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import (
    Outcome,
    count_parts,
    finish,
    read_records,
    run_here,
    start,
    unfinished_files,
    wait_for,
    write_job,
)

EVALUATIONS = 12


def _interrupt(
    folder: Path, until: Callable[[], bool], *, after: str = "", **changes: Any
) -> Outcome:
    """Start a search, wait until it has come so far, and press Ctrl-C once."""
    job = write_job(folder, search__evaluations=EVALUATIONS, **changes)
    log = folder / "stderr.txt"
    with log.open("w") as stderr:
        process = start("search", job, "--output", folder / "run", cwd=folder, stderr=stderr)
        wait_for(lambda: after in log.read_text(encoding="utf-8") and until(), process)
        process.send_signal(signal.SIGINT)
        outcome = finish(process, timeout_s=45)
    return outcome._replace(stderr=log.read_text(encoding="utf-8"))


def _assert_interrupted(outcome: Outcome, phase: str) -> None:
    assert outcome.code == 1, outcome
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [outcome.error]
    assert outcome.error.startswith("error: interrupted")
    assert phase in outcome.error
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.splitlines()) < 15, outcome.stderr


def _assert_resumes(folder: Path, *arguments: object) -> None:
    """Check that the run completes and keeps what it had."""
    run = folder / "run"
    before = {record.evaluation_id: record for record in read_records(run)}
    outcome = run_here("search", folder / "job.yaml", "--output", run, "--resume", *arguments)
    assert outcome.code == 0, outcome.stderr
    after = {record.evaluation_id: record for record in read_records(run)}
    assert len(after) == EVALUATIONS
    assert {key: after[key] for key in before} == before
    assert (run / "best" / "manifest.json").exists()


def _assert_nothing_half_written(folder: Path) -> None:
    assert unfinished_files(folder / "run") == []
    assert not (folder / "run" / "best").exists()


def test_interrupted_preparation_leaves_nothing(tmp_path: Path) -> None:
    outcome = _interrupt(
        tmp_path, lambda: True, after="preparation", target__options={"build_sleep_s": 30.0}
    )

    _assert_interrupted(outcome, "preparation")
    assert not (tmp_path / "run").exists()
    assert "--resume" not in outcome.error


@pytest.mark.slow
def test_interrupted_sensitivity_goes_on(tmp_path: Path) -> None:
    outcome = _interrupt(
        tmp_path,
        lambda: True,
        after="search …",
        search__algorithm="greedy",
        target__options={"sleep_s": 0.4},
        target__factory="tiny_target:tiny",
    )

    _assert_interrupted(outcome, "")
    assert "--resume" in outcome.error
    _assert_nothing_half_written(tmp_path)
    assert not (tmp_path / "run" / "sensitivity.parquet").exists()
    _assert_resumes(tmp_path)


# A killed search with PPO is resumed in the default run already, see test_resume.py.
@pytest.mark.parametrize("algorithm", [pytest.param("ppo", marks=pytest.mark.slow), "random"])
def test_interrupted_search_goes_on(tmp_path: Path, algorithm: str) -> None:
    run = tmp_path / "run"
    outcome = _interrupt(
        tmp_path,
        lambda: count_parts(run) >= 3,
        search__algorithm=algorithm,
        target__options={"sleep_s": 0.3},
    )

    _assert_interrupted(outcome, "search")
    kept = len(read_records(run))
    assert 3 <= kept < EVALUATIONS
    # An evaluation that a runner finished after the key was pressed may be stored too.
    found = re.search(rf"(\d+) evaluations are kept in {re.escape(str(run))}", outcome.error)
    assert found is not None
    assert 3 <= int(found[1]) <= kept
    _assert_nothing_half_written(tmp_path)
    _assert_resumes(tmp_path)


def test_interrupted_finetuning_goes_on(tmp_path: Path) -> None:
    outcome = _interrupt(
        tmp_path,
        lambda: True,
        after="fine-tuning …",
        finetuning__epochs=2,
        target__options={"train_sleep_s": 3.0},
    )

    _assert_interrupted(outcome, "fine-tuning")
    assert f"{EVALUATIONS} evaluations are kept" in outcome.error
    _assert_nothing_half_written(tmp_path)
    _assert_resumes(tmp_path)


def test_interrupted_start_is_reported(tmp_path: Path) -> None:
    """Ctrl-C while the heavy packages are imported is an interruption too."""
    job = write_job(tmp_path)
    process = start("check", job, cwd=tmp_path, anew=True)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    outcome = finish(process, timeout_s=30)

    assert outcome.code in (1, 130, -signal.SIGINT), outcome
    assert "Traceback" not in outcome.stderr
