"""The shell command, run by a shell, with a stand-in for Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rl_compress.submission.entrypoint import entrypoint


def run(command: str, folder: Path, *, code: int = 0) -> tuple[int, list[str]]:
    """Return the exit code, and what `python` was called with; the search ends with a code."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@"\ncase "$2" in rl_compress.cli) exit {code};; '
        f"*holds_run) test -e {folder}/there;; esac\n",
        encoding="utf-8",
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_run_is_sent_back_whatever_the_exit_code(tmp_path: Path, code: int) -> None:
    assert run(entrypoint(None), tmp_path, code=code) == (
        code,
        [
            "-m rl_compress.cli search job.yaml --output run",
            "-m rl_compress.submission.run_in_log run",
        ],
    )


def test_a_run_on_storage_is_begun_and_then_resumed(tmp_path: Path) -> None:
    storage = tmp_path / "a b; touch c"
    call = f"-m rl_compress.cli search job.yaml --output {storage}"

    assert run(entrypoint(str(storage)), tmp_path, code=1) == (1, [call])
    storage.mkdir()
    (storage / "job.yaml").touch()
    assert run(entrypoint(str(storage)), tmp_path) == (0, [f"{call} --resume"])


def test_a_run_behind_a_uri_is_begun_and_then_resumed(tmp_path: Path) -> None:
    uri = "s3://bucket/runs/a?region=x&scheme=http"
    ask = f"-m rl_compress.submission.holds_run {uri}"
    call = f"-m rl_compress.cli search job.yaml --output {uri}"

    assert run(entrypoint(uri), tmp_path, code=1) == (1, [ask, call])
    (tmp_path / "there").touch()
    assert run(entrypoint(uri), tmp_path) == (0, [ask, f"{call} --resume"])
