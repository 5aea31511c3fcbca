"""The lock that keeps two runs out of one directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rl_compress.errors import DirectoryInUseError, RunDirectoryError

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold a directory's lock within the block; the directory is made where it is missing.

    It is the operating system's (``flock``), so it ends with the process, however that ends; a file
    that a killed process left behind locks nothing. On NFS it holds between machines too, unless
    mounted with ``local_lock``. Storage without file locks is said to be so in a warning, and the
    run goes on unprotected. Inside a block, the same process cannot enter a second one.

    Raises:
        DirectoryInUseError: Another run holds the lock.
        RunDirectoryError: The directory cannot be written.
    """
    path = directory / LOCK_FILE
    missing = _missing(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    except FileExistsError:
        raise RunDirectoryError(f"{directory}: is a file; name a directory with --output") from None
    except OSError as error:
        raise RunDirectoryError(
            f"{directory}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    try:
        yield
    finally:
        if _is_current(file, path):
            path.unlink()
        file.close()
        # What failed before it wrote anything leaves nothing behind.
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing(directory: Path) -> list[Path]:
    """Return the folders that have to be made, innermost first."""
    return [folder for folder in (directory, *directory.parents) if not folder.exists()]


def _acquire(path: Path) -> TextIO:
    while True:
        # Not truncated: until the lock is ours, the text is its holder's.
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                holder = _holder(file)
                file.close()
                raise DirectoryInUseError(
                    f"{path.parent}: {holder} is running in it; wait until that has ended, or "
                    f"choose another --output"
                ) from None
            logger.warning(
                "%s: this storage has no file locks (%s); make sure that no other run uses the "
                "directory",
                path.parent,
                error.strerror,
            )
        if _is_current(file, path):
            break
        file.close()  # its holder ended and removed it in between
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": platform.node()}, file)
    file.flush()
    return file


def _is_current(file: TextIO, path: Path) -> bool:
    """Say whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        found = json.load(file)
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet
