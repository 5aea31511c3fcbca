"""The lock that keeps two runs out of one directory."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rl_compress.errors import DirectoryInUseError, RunDirectoryError

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"

_WAIT_S = 0.2
"""So that a file which its last holder has just removed is not taken for a lock."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold a directory's lock within the block; the directory is made where it is missing.

    It is the operating system's, so it ends with the process, however that ends; a file that a
    killed process left behind locks nothing. On NFS it holds between machines too, unless mounted
    with ``local_lock``. Storage without file locks is said to be so in a warning, and the run goes
    on unprotected. Inside a block, the same process cannot enter a second one.

    Raises:
        DirectoryInUseError: Another run holds the lock.
        RunDirectoryError: The directory cannot be written.
    """
    path, own = directory / LOCK_FILE, {"pid": os.getpid(), "host": platform.node()}
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _acquire(lock)
        path.write_text(json.dumps(own), encoding="utf-8")
    except FileExistsError:
        raise RunDirectoryError(f"{directory}: is a file; name a directory with --output") from None
    except OSError as error:
        raise RunDirectoryError(
            f"{directory}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    try:
        yield
    finally:
        # The directory may have been moved, and another run have begun in its place.
        if _read(path) == own:
            path.unlink()
        lock.release()
        # What failed before it wrote anything leaves nothing behind.
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _acquire(lock: FileLock) -> None:
    path = Path(lock.lock_file)
    try:
        lock.acquire(timeout=_WAIT_S, poll_interval=_WAIT_S / 4)
    except Timeout:
        # A holder that has just begun has not written its name yet.
        found = _read(path)
        holder = f"process {found['pid']} on {found['host']}" if found else "another process"
        raise DirectoryInUseError(
            f"{path.parent}: {holder} is running in it; wait until that has ended, or choose "
            f"another --output"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: this storage has no file locks (%s); make sure that no other run uses the "
            "directory",
            path.parent,
            error.strerror,
        )


def _read(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}
