"""Where a run works: in its directory, or in a working folder whose copy is on remote storage."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rl_compress.errors import ConfigError, RunDirectoryError, StorageError
from rl_compress.evaluation.ledger import Progress
from rl_compress.monitor import Monitor
from rl_compress.runs.mirror import Mirror
from rl_compress.runs.remote import PATIENCE_S, RemoteFolder, is_uri
from rl_compress.runs.remote_lock import remote_lock
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.run_lock import run_lock
from rl_compress.targets.cache import cache_dir

logger = logging.getLogger(__name__)

_PUSH_EVERY_S = 30.0


@contextlib.contextmanager
def opened(output: str | Path, monitor: Monitor) -> Iterator[tuple[RunDirectory, Monitor]]:
    """Hold a run directory, and its lock, within the block.

    Args:
        output: A local directory, or a URI. Of a URI, everything that is there is brought into a
            working folder of the cache first, and everything new is there when the block ends.
        monitor: Hears of progress.

    Yields:
        The directory, and the monitor to tell of progress: with a URI, what is new is copied at the
        end of each phase, and every half minute within one.

    Raises:
        RunDirectoryError: Another run holds the lock, or the directory cannot be written.
        ConfigError: The storage cannot be used.
        StorageError: The storage stayed away later on; everything is in the working folder.
    """
    if not is_uri(output):
        with run_lock(Path(output)):
            yield RunDirectory(Path(output)), monitor
        return
    remote = RemoteFolder(str(output))
    folder = _working_folder(remote)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_lock(folder))
        mirror = Mirror(folder, remote)

        def lose(reason: str) -> None:
            mirror.taken = reason

        with _usable():
            stack.enter_context(remote_lock(remote, mirror.id, lose, monitor.say))
            mirror.begin()
        remote.patience_s = PATIENCE_S
        try:
            yield RunDirectory(folder, mirror), PushingMonitor(monitor, mirror)
        except StorageError as error:
            mirror.note_ahead()
            raise StorageError(
                f"{error}; everything done is kept in {folder}, --resume continues it and copies it"
            ) from None
        except BaseException:
            # That error is the one to tell of; what it left behind is kept where it can be.
            try:
                mirror.push()
            except StorageError as error:
                mirror.note_ahead()
                logger.warning("%s; everything done is kept in %s", error, folder)
            raise
        _push_last(mirror)


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Before a run has begun, storage that cannot be reached is bad input."""
    try:
        yield
    except StorageError as error:
        raise ConfigError(str(error)) from None


@contextlib.contextmanager
def fetched(location: str | Path) -> Iterator[Path]:
    """Hold the files of a run within the block, for reading: a URI's in a temporary folder.

    Raises:
        ConfigError: The storage cannot be used, or holds nothing there.
    """
    if not is_uri(location):
        yield Path(location)
        return
    remote = RemoteFolder(str(location))
    with tempfile.TemporaryDirectory(prefix="rl-compress-") as scratch:
        folder = Path(scratch) / remote.name
        with _usable():
            if not remote.list():
                raise RunDirectoryError(f"{remote.uri}: there is nothing; check the URI")
            remote.fetch(folder)
        yield folder


def put(path: Path, location: str) -> None:
    """Copy a file that belongs to a run on remote storage there.

    Raises:
        ConfigError: The storage cannot be used.
    """
    with _usable():
        RemoteFolder(location).put(path, path.name)


def holds_run(location: str) -> bool:
    """Say whether there is a run on remote storage.

    Raises:
        ConfigError: The storage cannot be used.
    """
    with _usable():
        return "job.yaml" in RemoteFolder(location).list()


class PushingMonitor:
    """Tells another monitor of a run's progress, and copies what the run has written meanwhile."""

    def __init__(self, monitor: Monitor, mirror: Mirror) -> None:
        """Keep both; copying is done in this thread alone, where no file is half written."""
        self._monitor = monitor
        self._mirror = mirror
        self._thread = threading.get_ident()
        self._pushed_at = time.monotonic()

    def say(self, line: str) -> None:
        """See :class:`Monitor`."""
        self._monitor.say(line)

    def phase(self, name: str) -> None:
        """Copy what the last phase has left, and hand on."""
        self._push()
        self._monitor.phase(name)

    def step(self, done: int, total: int) -> None:
        """Hand on, and copy if that was some time ago."""
        self._monitor.step(done, total)
        if time.monotonic() - self._pushed_at > _PUSH_EVERY_S:
            self._push()

    def searched(self, progress: Progress) -> None:
        """See :class:`Monitor`."""
        self._monitor.searched(progress)

    def _push(self) -> None:
        if threading.get_ident() == self._thread:
            self._mirror.push()
            self._pushed_at = time.monotonic()


def _push_last(mirror: Mirror) -> None:
    try:
        mirror.push()
    except StorageError as error:
        mirror.note_ahead()
        raise StorageError(
            f"{error}; the run is complete in {mirror.folder}, --resume copies it"
        ) from None


def _working_folder(remote: RemoteFolder) -> Path:
    """Return a folder that has the run's own name."""
    digest = hashlib.sha256(remote.uri.encode()).hexdigest()[:16]
    return cache_dir() / "runs" / digest / remote.name
