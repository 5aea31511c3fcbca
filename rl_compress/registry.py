"""The registry of parts that a job calls by name: built in, installed, or the user's own.

A part is named by what the table here calls it, by the name of an entry point of an installed
package (groups are called as ``rl_compress.quantizers``), or as ``package.module:Class``. Names
stand for import paths, so that a job can be checked without importing any of them.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from rl_compress.errors import ConfigError


class Registry:
    """Parts of one kind."""

    def __init__(self, kind: str, built_in: Mapping[str, str]) -> None:
        """Name what is built in.

        Args:
            kind: In the plural, as in the name of the group of entry points.
            built_in: Import path, ``package.module:Class``, of each name.
        """
        self.kind = kind
        self.built_in = dict(built_in)

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        found = {
            point.name: point.value for point in entry_points(group=f"rl_compress.{self.kind}")
        }
        return found | self.built_in

    def path(self, name: str) -> str:
        """Return the import path that a name stands for; nothing is imported.

        Raises:
            ValueError: It is no name of this kind, and no path.
        """
        module, _, attribute = name.partition(":")
        if module and attribute.isidentifier():
            return name
        if name in self.built_in:
            return self.built_in[name]
        if name in self._paths:
            return self._paths[name]
        close = difflib.get_close_matches(name, self._paths, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"must be {', '.join(self._paths)}, or your own as package.module:Class{hint}"
        )

    def check(self, name: str) -> str:
        """Return a name that stands for something, as a validator does; nothing is imported.

        Raises:
            ValueError: It does not.
        """
        self.path(name)
        return name

    def find(self, name: str, base: type) -> Any:
        """Import what a name stands for.

        Args:
            name: A name or an import path.
            base: Class that it must be derived from.

        Raises:
            ConfigError: It cannot be imported, or is something else.
        """
        module_name, _, attribute = self.path(name).partition(":")
        # As `python -m` does: a job beside the user's code finds it.
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            raise ConfigError(
                f"{name}: cannot be imported ({type(error).__name__}: {error}); start in the "
                f"folder that holds {module_name.partition('.')[0]}, or install it"
            ) from error
        if not (isinstance(found, type) and issubclass(found, base)):
            wanted = f"{base.__module__}.{base.__name__}"
            raise ConfigError(f"{name}: must be a class derived from {wanted}")
        return found

    def name_of(self, part: type) -> str:
        """Return the name by which a class is found again."""
        path = f"{part.__module__}:{part.__name__}"
        return next((name for name, known in self.built_in.items() if known == path), path)


QUANTIZERS = Registry(
    "quantizers",
    {
        "symmetric": "rl_compress.quantizers.symmetric:Symmetric",
        "uniform": "rl_compress.quantizers.uniform:Uniform",
        "piecewise": "rl_compress.quantizers.piecewise:Piecewise",
        "cumulative_shift": "rl_compress.quantizers.cumulative_shift:CumulativeShift",
        "polynomial": "rl_compress.quantizers.polynomial:Polynomial",
        "kmeans": "rl_compress.quantizers.kmeans:KMeans",
    },
)
