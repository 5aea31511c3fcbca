"""rl-compress: finds by reinforcement learning how much to prune each layer of a PyTorch model."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_compress.export.artifact import load_compressed
    from rl_compress.job import load_job
    from rl_compress.run import compress, search
    from rl_compress.tuning.sweep import tune

__version__ = "0.1.0"

__all__ = ["compress", "load_compressed", "load_job", "search", "tune"]

_HOMES = {
    "compress": "rl_compress.run",
    "load_compressed": "rl_compress.export.artifact",
    "load_job": "rl_compress.job",
    "tune": "rl_compress.tuning.sweep",
}


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used, so that importing the package stays quick."""
    if name == "search":
        return importlib.import_module("rl_compress.search")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _CallableModule(ModuleType):
    """The subpackage `search`, which is also the function of that name.

    Importing a subpackage binds it in its parent, over a function that is called the same.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call :func:`rl_compress.run.search`."""
        return importlib.import_module("rl_compress.run").search(*args, **kwargs)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search" and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
