"""What pydantic finds wrong in a user's values, in one line that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def in_words(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Say what is wrong with each key, and what is meant perhaps.

    Args:
        error: Raised by ``model``.
        model: The section.
        prefix: The section's own key, with a dot.
    """
    return "; ".join(_describe(problem, model, prefix) for problem in error.errors())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remark on the nearest of the known names; nothing where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _describe(problem: Any, model: type[BaseModel], prefix: str) -> str:
    location = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        hint = did_you_mean(location[-1], known) or f"; known keys: {', '.join(known) or 'none'}"
        return f"unknown key {key}{hint}"
    if problem["type"] == "missing":
        return f"missing key {key}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, but got {problem['input']!r}"


def _fields_at(model: Any, location: Sequence[str]) -> list[str]:
    """Return the keys of the section at a location."""
    for part in location:
        found = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        # Below a mapping with free keys, its values' model.
        model = found.annotation if found else get_args(model)[-1]
    return list(model.model_fields)
