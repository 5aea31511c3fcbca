"""Where files are kept that can be made again: pre-trained built-in models, weights to map."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rl_compress.errors import ConfigError


def cache_dir() -> Path:
    """Return ``$RL_COMPRESS_CACHE``, or ``~/.cache/rl-compress``."""
    configured = os.environ.get("RL_COMPRESS_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "rl-compress"


def check_cache() -> None:
    """Make sure that the cache can be written to, before hours of work need it.

    Raises:
        ConfigError: It cannot.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written to ({error.strerror}), and env runners take the weights "
            f"from there; set RL_COMPRESS_CACHE to a folder that can"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that no other process ever reads half of it.

    Args:
        path: The file; folders are made as needed, and an older file is replaced.
        data: Its contents.

    Raises:
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
