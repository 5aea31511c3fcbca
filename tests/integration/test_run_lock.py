"""Two processes and one run directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import count_parts, finish, read_records, run_here, start, wait_for, write_job


@pytest.mark.parametrize("option", [None, "--resume", "--if-changed"])
def test_a_second_run_is_turned_away_and_the_first_ends_well(
    tmp_path: Path, option: str | None
) -> None:
    job, run = write_job(tmp_path, target__options={"sleep_s": 0.1}), tmp_path / "run"
    process = start("search", job, "--output", run, cwd=tmp_path)
    wait_for(lambda: count_parts(run) >= 1, process)

    second = run_here("search", job, "--output", run, *filter(None, [option]))

    assert second.code == 2
    assert f"{run}: process {process.pid} on " in second.error
    assert "is running in it; wait until that has ended" in second.error
    outcome = finish(process)
    assert outcome.code == 0, outcome.stderr
    assert len(read_records(run)) == 12
    assert not (run / "run.lock").exists()


def test_a_killed_run_leaves_its_directory_free(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, target__options={"sleep_s": 0.2}), tmp_path / "run"
    process = start("search", job, "--output", run, cwd=tmp_path)
    wait_for(lambda: count_parts(run) >= 1, process)
    process.kill()
    finish(process)
    assert (run / "run.lock").exists()

    resumed = run_here("search", job, "--output", run, "--resume")

    assert resumed.code == 0, resumed.stderr
    assert not (run / "run.lock").exists()
