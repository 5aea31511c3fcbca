from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl_compress.errors import DirectoryInUseError, RunDirectoryError
from rl_compress.runs import run_lock as module
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.run_lock import LOCK_FILE, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from rl_compress.runs.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def _hold(folder: Path) -> subprocess.Popen[str]:
    root = Path(module.__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_to_others(tmp_path: Path) -> None:
    process = _hold(tmp_path)
    try:
        expected = f"process {process.pid} on {platform.node()} is running in it"
        with pytest.raises(RunDirectoryError, match=expected) as caught, run_lock(tmp_path):
            pass
        assert caught.value.exit_code == 2
        with pytest.raises(RunDirectoryError, match=expected), run_lock(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = _hold(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    with run_lock(tmp_path):
        holder = json.loads((tmp_path / LOCK_FILE).read_text(encoding="utf-8"))
        assert holder == {"pid": os.getpid(), "host": platform.node()}
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_left_over_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    RunDirectory(tmp_path).check("name: digits\n", resume=False)


def test_the_directory_is_made_and_removed_if_it_stays_empty(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "digits" / "one"
    with run_lock(run):
        assert run.is_dir()
    assert list(tmp_path.iterdir()) == []
    with run_lock(run):
        (run / "job.yaml").touch()
    assert [path.name for path in run.iterdir()] == ["job.yaml"]


def test_the_same_process_cannot_enter_twice(tmp_path: Path) -> None:
    expected = f"process {os.getpid()} on {platform.node()} is running in it"
    with run_lock(tmp_path), pytest.raises(DirectoryInUseError, match=expected), run_lock(tmp_path):
        pass


def test_an_error_within_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    with run_lock(tmp_path):
        pass


def test_a_file_removed_by_its_last_holder_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one process would hold the removed file, and another the new one."""
    flock, calls = fcntl.flock, []

    def slow(file: Any, how: int) -> None:
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text(encoding="utf-8")
    assert len(calls) >= 2


def test_storage_without_locks_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(_file: Any, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), run_lock(tmp_path):
        pass
    assert "this storage has no file locks" in caplog.text


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    refused = pytest.raises(RunDirectoryError, match="is a file; name a directory")
    with refused, run_lock(tmp_path / "run"):
        pass
