"""The lock that keeps two machines out of one run on remote storage.

Object stores have no locks, so it is a file that its holder rewrites every few seconds. A holder
that was killed is told from one that runs by watching the file: no two clocks are compared, but for
files that are very old. Two that begin within the same second may both hold it for a moment; the
one that is overwritten finds that out at its next beat.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rl_compress.errors import RunDirectoryError, StorageError
from rl_compress.runs.remote import RemoteFolder
from rl_compress.runs.run_lock import LOCK_FILE

BEAT_S = 10.0
STALE_S = 60.0
"""A holder that has not written for so long is given up."""

_OLD_S = 600.0
"""Nobody waits to see whether a holder writes again after so long, by the clocks of both."""

_SETTLE_S = 1.0
_POLL_S = 1.0


@contextlib.contextmanager
def remote_lock(
    remote: RemoteFolder,
    holder: str,
    on_lost: Callable[[str], None],
    say: Callable[[str], None] = lambda _line: None,
) -> Iterator[None]:
    """Hold a remote folder's lock within the block.

    Args:
        remote: The folder.
        holder: Names the working folder; a lock that it left behind is taken over at once.
        on_lost: Hears from a thread that another run has taken the lock.
        say: Hears that it takes up to a minute to find out whether the holder is alive.

    Raises:
        RunDirectoryError: Another run holds the lock.
        StorageError: The storage cannot be reached.
    """
    _wait_for_its_end(remote, holder, say)
    entry = {"holder": holder, "pid": os.getpid(), "host": platform.node()}
    _write(remote, entry)
    time.sleep(_SETTLE_S)
    if (found := _read(remote)).get("holder") != holder:
        raise _held(remote, found)
    stop = threading.Event()
    # Of its own, for a beat that fails is not waited for.
    beating = copy.copy(remote)

    def beat() -> None:
        while not stop.wait(BEAT_S):
            with contextlib.suppress(StorageError):
                if (found := _read(beating)).get("holder", holder) != holder:
                    on_lost(f"{_name(found)} has taken the run over; this one has to end")
                    return
                _write(beating, entry)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StorageError):
            if not remote.is_lost and _read(beating).get("holder") == holder:
                beating.delete(LOCK_FILE)


def _wait_for_its_end(remote: RemoteFolder, holder: str, say: Callable[[str], None]) -> None:
    """Return when nobody else holds the lock.

    Raises:
        RunDirectoryError: Its holder writes, so it lives.
    """
    first = found = _read(remote)
    deadline = time.monotonic() + STALE_S
    if found.get("holder", holder) == holder or time.time() - found.get("time", 0.0) > _OLD_S:
        return
    say(f"{remote.uri}: waiting up to {STALE_S:.0f} s to see whether {_name(first)} still runs")
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if not (found := _read(remote)):
            return
        if found != first:
            raise _held(remote, found)


def _held(remote: RemoteFolder, found: dict[str, Any]) -> RunDirectoryError:
    return RunDirectoryError(
        f"{remote.uri}: {_name(found)} is running in it; wait until that has ended "
        f"({STALE_S:.0f} s after it was killed), or choose another --output"
    )


def _name(found: dict[str, Any]) -> str:
    return f"process {found.get('pid', '?')} on {found.get('host', 'another machine')}"


def _read(remote: RemoteFolder) -> dict[str, Any]:
    try:
        found = json.loads(remote.read(LOCK_FILE) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(remote: RemoteFolder, entry: dict[str, Any]) -> None:
    remote.write(LOCK_FILE, json.dumps({**entry, "time": time.time()}).encode())
