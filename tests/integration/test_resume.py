"""Kill the driver at any moment: nothing measured is lost, and nothing is measured twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from records import make_record
from running import (
    count_parts,
    finish,
    is_alive,
    read_records,
    run_here,
    start,
    unfinished_files,
    wait_for,
    write_job,
)

from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore

EVALUATIONS = 12


def _job(folder: Path, algorithm: str, **options: Any) -> Path:
    return write_job(
        folder,
        search__algorithm=algorithm,
        search__evaluations=EVALUATIONS,
        target__options={"sleep_s": 0.15, **options},
    )


@pytest.mark.usefixtures("ray_session")
def test_killed_search_leaves_no_env_runner_and_is_resumed_without_loss(tmp_path: Path) -> None:
    (pids := tmp_path / "pids").mkdir()
    job, run = _job(tmp_path, "ppo", pids=str(pids)), tmp_path / "run"
    process = start("search", job, "--output", run, cwd=tmp_path)
    wait_for(lambda: count_parts(run) >= 5, process)
    process.kill()
    finish(process)
    runners = {int(path.name) for path in pids.iterdir()} - {process.pid}
    assert runners
    deadline = time.monotonic() + 30
    while (left := [pid for pid in runners if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    before = {record.evaluation_id: record for record in read_records(run)}
    assert 5 <= len(before) < EVALUATIONS

    outcome = run_here("search", job, "--output", run, "--resume")

    assert outcome.code == 0, outcome.stderr
    after = {record.evaluation_id: record for record in read_records(run)}
    assert len(after) == len({record.policy_id for record in after.values()}) == EVALUATIONS
    assert {key: after[key] for key in before} == before
    assert unfinished_files(run) == []
    assert (run / "report.html").exists()


def test_resumed_baseline_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """The search is repeated from its seed, so the second half is that of a whole run.

    Resumed once more, when it is complete, it delivers again from what is stored; and what a killed
    process began to write is not read.
    """
    job, run = _job(tmp_path, "evolution"), tmp_path / "run"
    process = start("search", job, "--output", run, cwd=tmp_path)
    wait_for(lambda: count_parts(run) >= 5, process)
    process.kill()
    finish(process)
    assert run_here("search", job, "--output", run, "--resume").code == 0

    assert run_here("search", job, "--output", tmp_path / "whole").code == 0

    found, expected = (
        [(r.policy_id, r.score) for r in read_records(folder)]
        for folder in (run, tmp_path / "whole")
    )
    assert found == expected
    assert unfinished_files(run) == []
    assert (run / "report.html").exists()
    before = read_records(run)
    (run / "evaluations" / "part-000099-000099.parquet.tmp").write_bytes(b"PAR1half")
    outcome = run_here("search", job, "--output", run, "--resume")
    assert outcome.code == 0, outcome.stderr
    assert read_records(run) == before


def test_restarted_ledger_keeps_evaluations_that_were_in_flight(tmp_path: Path) -> None:
    """Workers outlive a killed coordinator; what they hand in later has ids from before."""
    ledger = EvaluationLedger(EvaluationStore(tmp_path), 10)
    early = ledger.claim("a", 1).evaluation_id
    ledger = EvaluationLedger(EvaluationStore(tmp_path), 10)
    late = ledger.claim("b", 2).evaluation_id

    ledger.complete(_record(early, "a"))
    ledger.complete(_record(late, "b"))

    assert {record.policy_id for record in EvaluationStore(tmp_path).read()} == {"a", "b"}


def _record(evaluation_id: int, policy_id: str) -> EvaluationRecord:
    return make_record(evaluation_id, policy_id=policy_id, worker=1)
