"""rl-compress: finds by reinforcement learning how much to prune each layer of a PyTorch model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_compress.export.artifact import load_compressed
    from rl_compress.job import load_job
    from rl_compress.session import compress, search
    from rl_compress.sweeps.sweep import tune

__version__ = "0.1.0"

__all__ = ["compress", "load_compressed", "load_job", "search", "tune"]

_HOMES = {
    "compress": "rl_compress.session",
    "load_compressed": "rl_compress.export.artifact",
    "load_job": "rl_compress.job",
    "search": "rl_compress.session",
    "tune": "rl_compress.sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used, so that importing the package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
