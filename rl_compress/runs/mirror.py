"""A working folder on this machine, and its copy on remote storage.

A run works in the local folder. Each evaluation goes to the storage before anybody hears of it
(:meth:`Mirror.keep`), all else at the end of each phase and now and then (:meth:`Mirror.push`).
The storage's file ``run.owner`` names the working folder that wrote to it last, so that a machine
knows whether its own folder is the newest, or has been overtaken by another machine's.
"""

from __future__ import annotations

import json
import platform
import shutil
import uuid
from pathlib import Path
from typing import Any

from rl_compress.errors import RunDirectoryError, StorageError
from rl_compress.runs.remote import RemoteFolder
from rl_compress.runs.run_lock import LOCK_FILE
from rl_compress.runs.written import whole

OWNER_FILE = "run.owner"

_OWN = (LOCK_FILE, OWNER_FILE)
_UNFINISHED = (".tmp", ".unfinished", ".previous")
_FIRST, _LAST = "job.yaml", "fingerprint.json"
"""Without the first, a run is none; with the last, it is finished."""


class Mirror:
    """Keeps the copy of one run; used by one thread, except for :meth:`keep`."""

    def __init__(self, folder: Path, remote: RemoteFolder) -> None:
        """Name folder and storage; nothing is written.

        Args:
            folder: The working folder. What is known of its copy is kept beside it.
            remote: Where the copy is.
        """
        self.folder = folder
        self.remote = remote
        self.taken = ""
        """Who else uses the storage now, once that is found out."""
        self._state_file = folder.with_name(f"{folder.name}.state")
        state = _load(self._state_file)
        self.id: str = state.get("id", uuid.uuid4().hex)
        """Names the working folder."""
        self._pushed: dict[str, tuple[int, int]] = {
            name: (size, time) for name, (size, time) in state.get("pushed", {}).items()
        }
        self._is_ahead: bool = state.get("ahead", False)
        self._announced = False

    def begin(self) -> None:
        """Bring folder and storage to the same state, whichever of them is newer.

        Raises:
            RunDirectoryError: Both are newer: the storage was away, and another machine went on.
            StorageError: The storage cannot be reached.
        """
        owner = json.loads(self.remote.read(OWNER_FILE) or "{}").get("id")
        if owner == self.id or (owner is None and self._is_ahead):
            self.push()
            return
        if self._is_ahead:
            raise RunDirectoryError(
                f"{self.remote.uri}: another machine continued this run while this one could not "
                f"reach the storage; what only this one has is in {self.folder}: move that away "
                f"to continue from the storage"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        if owner is not None:
            self._pull()
        self._save()

    def keep(self, path: Path) -> None:
        """Copy one file of the folder to the storage now.

        Raises:
            StorageError: The storage stayed away; the file is kept locally.
        """
        self.remote.put(path, path.relative_to(self.folder).as_posix())

    def push(self) -> None:
        """Copy what is new, and delete what is gone; nothing before the folder holds a run.

        Raises:
            StorageError: The storage stayed away, or another machine uses it.
        """
        if self.taken:
            raise StorageError(f"{self.remote.uri}: {self.taken}")
        if not (self.folder / _FIRST).exists():
            return
        # Listed first: what another process keeps meanwhile is seen in the folder, too.
        there = self.remote.list()
        if not self._announced:
            owner = {"id": self.id, "host": platform.node()}
            self.remote.write(OWNER_FILE, json.dumps(owner).encode())
            self._announced = True
        here = self._scan()
        for name in sorted(here, key=lambda name: (name == _LAST, name != _FIRST, name)):
            if self._pushed.get(name) == here[name]:
                continue
            # Parts do not change, and were kept when they were written.
            is_kept = name.endswith(".parquet") and "evaluations/" in name
            if not (is_kept and there.get(name) == here[name][0]):
                self.remote.put(self.folder / name, name)
            self._pushed[name] = here[name]
        for name in there.keys() - here.keys() - set(_OWN):
            self.remote.delete(name)
        self._pushed = {name: self._pushed[name] for name in here}
        self._is_ahead = False
        self._save()

    def note_ahead(self) -> None:
        """Remember that the folder holds what the storage does not."""
        self._is_ahead = True
        self._save()

    def _pull(self) -> None:
        unfinished = self.folder.with_name(f"{self.folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        self.remote.fetch(unfinished)
        for name in _OWN:
            (unfinished / name).unlink(missing_ok=True)
        unfinished.rename(self.folder)
        self._pushed = self._scan()

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Return size in bytes and time of change in ns of each whole file, by name."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder)
            if name.as_posix() in _OWN or any(part.endswith(_UNFINISHED) for part in name.parts):
                continue
            if path.is_file():
                stat = path.stat()
                found[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _save(self) -> None:
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        state = {"id": self.id, "ahead": self._is_ahead, "pushed": self._pushed}
        with whole(self._state_file) as file:
            file.write_text(json.dumps(state), encoding="utf-8")


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
