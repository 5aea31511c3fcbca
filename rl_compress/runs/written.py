"""Writing whole files, and what must not be lost: a full disk is said in one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rl_compress.errors import StorageError


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Say what to do if a file cannot be written within the block.

    Raises:
        StorageError: It cannot, as on a full disk.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(
            f"{path}: cannot be written ({reason}); all that was stored before is kept: make room, "
            f"or mend the disk, and go on with --resume"
        ) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give another name to write to, which becomes the file's when the block ends.

    So nobody reads half a file, and a process that is killed leaves the older one.
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    yield unfinished
    unfinished.replace(path)
