"""Patterns of a job that name layers: one that fits none would protect nothing, and say nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from rl_compress.errors import ConfigError
from rl_compress.space.space_config import SpaceConfig


def check_patterns(config: SpaceConfig, named: Sequence[str], weighted: Sequence[str]) -> None:
    """Make sure that every pattern of `space.skip` and `space.protect` fits a layer.

    Args:
        config: Holds the patterns.
        named: Names of the layers that can be skipped.
        weighted: Names of those that can be protected.

    Raises:
        ConfigError: One fits none; the message has the nearest name.
    """
    for key, patterns, names, kind in (
        ("space.skip", config.skip, named, "layer"),
        ("space.protect", config.protect or [], weighted, "convolution or linear layer"),
    ):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"{key}: {pattern!r} fits no {kind}{_hint(pattern, names)}")


def _hint(pattern: str, names: Sequence[str]) -> str:
    """Return the layer, or block of layers, that is nearest to a pattern."""
    blocks = dict.fromkeys(
        f"{name[:end]}.*" for name in names for end, sign in enumerate(name) if sign == "."
    )
    if f"{pattern}.*" in blocks:
        return f", but a block of them; its layers are {f'{pattern}.*'!r}"
    near = difflib.get_close_matches(pattern, [*filter(None, names), *blocks], n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""
