"""rl-compress: finds by reinforcement learning how much to prune each layer of a PyTorch model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_compress.api import check, compress, search
    from rl_compress.export.artifact import load_compressed
    from rl_compress.job import Job, load_job
    from rl_compress.sweeps.sweep import tune
    from rl_compress.targets.target import ClassificationTarget, Target

__version__ = "0.1.0"

__all__ = [
    "ClassificationTarget",
    "Job",
    "Target",
    "check",
    "compress",
    "load_compressed",
    "load_job",
    "search",
    "tune",
]

_HOMES = {
    "ClassificationTarget": "rl_compress.targets.target",
    "Job": "rl_compress.job",
    "Target": "rl_compress.targets.target",
    "check": "rl_compress.api",
    "compress": "rl_compress.api",
    "load_compressed": "rl_compress.export.artifact",
    "load_job": "rl_compress.job",
    "search": "rl_compress.api",
    "tune": "rl_compress.sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used, so that importing the package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
