"""Where files are kept that can be made again: pre-trained built-in models, weights to map."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``$RL_COMPRESS_CACHE``, or ``~/.cache/rl-compress``."""
    configured = os.environ.get("RL_COMPRESS_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "rl-compress"
