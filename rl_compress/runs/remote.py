"""A folder on remote storage, through ``pyarrow.fs``: whole files, retries, one line of trouble."""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from rl_compress.errors import ConfigError, StorageError

PATIENCE_S = 120.0
"""How long an operation is tried again, once a run has begun."""

_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_UNFINISHED = ".tmp"

# Small files go in one request instead of three; storage that is away is noticed in half a minute
# instead of in fifteen.
_DEFAULTS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=30", "file": ""}

_REMEDIES = (
    (
        ("NO_SUCH_BUCKET", "bucket does not exist", "NOT_FOUND"),
        "there is no such bucket; create it, or correct the URI",
    ),
    (
        (
            "ACCESS_DENIED",
            "EXPIRED_TOKEN",
            "INVALID_ACCESS_KEY",
            "INVALID_CLIENT_TOKEN",
            "PERMISSION_DENIED",
            "SIGNATURE",
            "UNAUTHENTICATED",
            "UNRECOGNIZED_CLIENT",
            "HTTP status 40",
        ),
        "access is denied; set credentials that may read and write there (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)",
    ),
    (
        ("NETWORK_CONNECTION", "UNAVAILABLE", "CURL error", "curlCode", "RequestTimeout"),
        "nothing answers; check the network, and endpoint_override in the URI",
    ),
)

_Result = TypeVar("_Result")


def is_uri(location: str | Path) -> bool:
    """Say whether a location is a URI, such as ``s3://bucket/runs``, and no local path."""
    return "://" in str(location)


def shown(uri: str) -> str:
    """Return a URI without the keys that it may hold."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def check_uri(uri: str) -> str:
    """Return a folder's URI with our defaults in its query; nothing is asked of the storage.

    Raises:
        ConfigError: It is no URI of a folder, or of another kind of storage.
    """
    parts = urlsplit(uri)
    if parts.scheme not in _DEFAULTS:
        raise ConfigError(
            f"{shown(uri)}: storage of the kind {parts.scheme}:// is not supported; use s3://, "
            f"gs:// or a local path"
        )
    if not parts.path.strip("/"):
        raise ConfigError(
            f"{shown(uri)}: names no folder; give it as {parts.scheme}://bucket/runs/name"
        )
    query, default = parts.query, _DEFAULTS[parts.scheme]
    if default and default.partition("=")[0] not in query:
        query = "&".join(filter(None, [query, default]))
    return urlunsplit(parts._replace(query=query))


class RemoteFolder:
    """All files below a URI; names are relative to it, with slashes.

    It can be pickled; another process resolves credentials anew unless the URI holds them.
    """

    def __init__(self, uri: str) -> None:
        """Parse the URI; a bucket's region may be asked for, nothing else is.

        Raises:
            ConfigError: It is no URI of a folder, or of another kind of storage.
        """
        whole = check_uri(uri)
        self.uri = shown(uri).rstrip("/")
        try:
            storage, root = fs.FileSystem.from_uri(whole)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{self.uri}: no usable URI ({error})") from None
        except OSError as error:
            raise ConfigError(f"{self.uri}: {_explain(error)}") from None
        root = root.rstrip("/")
        self.name = root.rpartition("/")[2]
        """The last part of the path."""
        self._moves = isinstance(storage, fs.LocalFileSystem)
        self._fs = fs.SubTreeFileSystem(root, storage)
        self.patience_s = 0.0
        """How long what fails is tried again; pyarrow itself does so for some seconds."""
        self._lost = ""

    @property
    def is_lost(self) -> bool:
        """Say whether all patience was in vain; nothing is tried any more."""
        return bool(self._lost)

    def list(self) -> dict[str, int]:
        """Return the size in bytes of every whole file, by name.

        Raises:
            StorageError: The storage cannot be reached; likewise of all other methods.
        """
        selector = fs.FileSelector("", recursive=True, allow_not_found=True)
        return {
            info.path: info.size
            for info in self._retried(lambda: self._fs.get_file_info(selector))
            if info.type == fs.FileType.File and not info.path.endswith(_UNFINISHED)
        }

    def read(self, name: str) -> bytes | None:
        """Return a file's contents; None where there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self._retried(
                lambda: self._fs.open_input_stream(name).readall(), final=FileNotFoundError
            )
        return None

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file whole."""
        self._retried(lambda: self._write(name, data))

    def put(self, path: Path, name: str) -> None:
        """Copy a local file there, whole.

        Raises:
            FileNotFoundError: There is no such local file.
            StorageError: See :meth:`list`.
        """
        with pa.memory_map(str(path)) as file:
            self.write(name, file.read_buffer())

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there does no harm."""
        with contextlib.suppress(FileNotFoundError):
            self._retried(lambda: self._fs.delete_file(name), final=FileNotFoundError)

    def fetch(self, folder: Path) -> None:
        """Copy everything into a local folder, several files at a time."""
        folder.mkdir(parents=True, exist_ok=True)
        local = fs.LocalFileSystem()
        self._retried(lambda: fs.copy_files("", str(folder), self._fs, local))

    def _write(self, name: str, data: bytes | pa.Buffer) -> None:
        # An object appears when it is complete, and needs no folder.
        unfinished = name + _UNFINISHED if self._moves else name
        if self._moves:
            path = posixpath.join(self._fs.base_path, name)
            self._fs.base_fs.create_dir(posixpath.dirname(path), recursive=True)
        with self._fs.open_output_stream(unfinished) as stream:
            stream.write(data)
        if self._moves:
            self._fs.move(unfinished, name)

    def _retried(
        self, action: Callable[[], _Result], final: type[Exception] | tuple[()] = ()
    ) -> _Result:
        if self._lost:
            raise StorageError(self._lost)
        deadline = time.monotonic() + self.patience_s
        attempt = 0
        while True:
            try:
                return action()
            except final:
                raise
            except (OSError, pa.ArrowException) as error:
                delay = _DELAYS_S[min(attempt, len(_DELAYS_S) - 1)]
                if time.monotonic() + delay > deadline:
                    message = f"{self.uri}: {_explain(error)}"
                    if self.patience_s:
                        # Whoever asks next need not wait as long again.
                        self._lost = message
                    raise StorageError(message) from None
                time.sleep(delay)
                attempt += 1


def _explain(error: Exception) -> str:
    """Return what a storage's error means and what helps, then its own words."""
    text = " ".join(str(error).split())
    for marks, remedy in _REMEDIES:
        if any(mark in text for mark in marks):
            return f"{remedy} ({text})"
    return f"cannot be used ({text})"
