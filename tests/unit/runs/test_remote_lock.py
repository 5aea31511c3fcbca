"""Two machines and one folder on remote storage."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rl_compress.errors import RunDirectoryError
from rl_compress.runs import remote_lock as module
from rl_compress.runs.remote import RemoteFolder
from rl_compress.runs.remote_lock import remote_lock
from rl_compress.runs.run_lock import LOCK_FILE


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    for name, seconds in {"BEAT_S": 0.05, "STALE_S": 0.4, "_SETTLE_S": 0.0, "_POLL_S": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)
    return RemoteFolder(f"file://{tmp_path}/run")


def leave(remote: RemoteFolder, *, age_s: float = 0.0) -> None:
    """Leave the lock of a run that was killed."""
    entry = {"holder": "killed", "pid": 1, "host": "there", "time": time.time() - age_s}
    remote.write(LOCK_FILE, json.dumps(entry).encode())


def test_a_second_machine_is_turned_away_and_the_lock_ends_with_the_block(
    remote: RemoteFolder,
) -> None:
    with remote_lock(remote, "a", pytest.fail):
        with (
            pytest.raises(RunDirectoryError, match=r"process \d+ on .* is running in it; wait"),
            remote_lock(remote, "b", pytest.fail),
        ):
            pass
        assert LOCK_FILE in remote.list()
    assert remote.list() == {}


def test_a_machine_that_was_killed_is_given_up(remote: RemoteFolder) -> None:
    leave(remote)
    said: list[str] = []
    start = time.monotonic()
    with remote_lock(remote, "b", pytest.fail, said.append):
        assert time.monotonic() - start >= 0.4
    assert ["to see whether process 1 on there still runs" in line for line in said] == [True]


@pytest.mark.parametrize(("holder", "age_s"), [("killed", 0.0), ("b", 3600.0)])
def test_nobody_waits_for_a_lock_of_the_same_folder_or_an_old_one(
    remote: RemoteFolder, holder: str, age_s: float
) -> None:
    leave(remote, age_s=age_s)
    with remote_lock(remote, holder, pytest.fail, pytest.fail):
        pass


def test_a_lock_that_is_taken_over_is_noticed_and_left_alone(remote: RemoteFolder) -> None:
    heard: list[str] = []
    with remote_lock(remote, "a", heard.append):
        leave(remote)
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            time.sleep(0.02)
            leave(remote)
    assert heard == ["process 1 on there has taken the run over; this one has to end"]
    assert LOCK_FILE in remote.list()
