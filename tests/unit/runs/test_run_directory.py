from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_compress.errors import CorruptFileError, RunDirectoryError
from rl_compress.runs.run_directory import RunDirectory

JOB = "name: digits\n"


def test_a_new_directory_is_accepted_and_created(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "digits")
    run.check(JOB, resume=False)
    assert not run.path.exists()
    run.create(JOB)
    assert run.evaluations.is_dir()
    assert run.checkpoints.is_dir()
    assert (run.path / "job.yaml").read_text(encoding="utf-8") == JOB


def test_an_empty_directory_is_accepted(tmp_path: Path) -> None:
    RunDirectory(tmp_path).check(JOB, resume=False)


def test_a_damaged_ranking_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.ranking() == {}
    (tmp_path / "ranking.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptFileError, match=r"ranking\.json: not a readable ranking"):
        run.ranking()


def test_a_run_of_the_same_job_is_resumed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create(JOB)
    (run.evaluations / "part-000000-000000.parquet").write_bytes(b"kept")
    run.check(JOB, resume=True)
    run.create(JOB)
    assert (run.evaluations / "part-000000-000000.parquet").read_bytes() == b"kept"


@pytest.mark.parametrize("resume", [False, True])
def test_another_jobs_run_is_refused(tmp_path: Path, resume: bool) -> None:
    run = RunDirectory(tmp_path)
    run.create("name: other\n")
    with pytest.raises(RunDirectoryError, match="holds a run of another job"):
        run.check(JOB, resume=resume)


def test_a_run_is_not_repeated_without_resume(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create(JOB)
    with pytest.raises(RunDirectoryError, match="add --resume to continue it"):
        run.check(JOB, resume=False)


def test_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="there is no run to resume"):
        RunDirectory(tmp_path / "absent").check(JOB, resume=True)


def test_a_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no run"):
        RunDirectory(tmp_path).check(JOB, resume=False)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="is a file; name a directory"):
        RunDirectory(path).check(JOB, resume=False)


def test_a_directory_below_a_file_cannot_be_created(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory(path / "run").create(JOB)


def test_files_are_written_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_json("space.json", {"groups": ["größe"]})
    run.write_json("space.json", {"groups": ["größer"]})
    assert json.loads((tmp_path / "space.json").read_text(encoding="utf-8")) == {
        "groups": ["größer"]
    }
    assert [path.name for path in tmp_path.iterdir()] == ["space.json"]
