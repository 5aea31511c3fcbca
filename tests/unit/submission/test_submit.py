"""What `submit` refuses before it talks to anybody; test_submission.py has it talk to Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from running import make_job, run_here, write_job

from rl_compress.errors import SubmissionError
from rl_compress.job import parse_job
from rl_compress.submission import submit as module
from rl_compress.submission.submit import Submission, free_directory, wait

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "search.seeed=1"], ["search.seeed", "did you mean seed"]),
        (["--set", "budget.mac=0.5"], ["budget.mac", "choose from"]),
        (["--set", "target.factory=nowhere:target"], ["target.factory", "nowhere"]),
        (["--set", "target.weights=net.pt"], ["net.pt"]),
        (["--include", "nothing"], ["--include", "nothing"]),
        (["--pip", "nothing.whl"], ["--pip", "no such wheel"]),
        (["--output", "run"], ["--output", "--wait"]),
        (["--output", "run", "--wait", "--storage", "/runs"], ["--output", "--storage"]),
        (["--output", ".", "--wait"], ["--output", "another job"]),
        (["--storage", "runs"], ["--storage", "absolute"]),
        (["--storage", "ftp://host/runs"], ["ftp://host/runs", "s3://"]),
        (["--output", "s3://bucket"], ["s3://bucket", "names no folder"]),
        (["--id", "a/b"], ["--id a/b"]),
        ([], ["--address", NOWHERE, "cannot connect"]),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    outcome = run_here("submit", write_job(tmp_path), "--address", NOWHERE, *arguments)

    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_run_is_fetched_to_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = free_directory(parse_job(make_job()), None)
    assert directory.parent == Path("runs/tiny")


@pytest.mark.parametrize(
    ("details", "code", "message"),
    [
        ({"status": JobStatus.FAILED, "driver_exit_code": 2}, 2, r"exit code 2"),
        ({"status": JobStatus.FAILED, "driver_exit_code": -9}, 1, r"exit code -9"),
        ({"status": JobStatus.FAILED, "message": "no\nnode"}, 1, r"could not run .*\(no node\)"),
        ({"status": JobStatus.STOPPED}, 1, "was stopped"),
        ({"status": JobStatus.SUCCEEDED}, 1, "holds no run"),
    ],
)
def test_how_a_job_ended_is_handed_through(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    details: dict[str, Any],
    code: int,
    message: str,
) -> None:
    ended = SimpleNamespace(**{"driver_exit_code": None, "message": None, **details})
    monkeypatch.setattr(module, "follow", lambda *_: ended)
    client: Any = None

    with pytest.raises(SubmissionError, match=message) as caught:
        wait(Submission(client, "job", None, is_new=True), tmp_path / "run", lambda _: None)

    assert caught.value.exit_code == code
    assert not (tmp_path / "run").exists()


def test_an_interruption_says_that_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "follow", interrupted)
    client: Any = None
    with pytest.raises(SubmissionError, match="job goes on, --wait --id job"):
        wait(Submission(client, "job", None, is_new=True), None, lambda _: None)
