"""Checks of the options that a job gives to a built-in target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from rl_compress.errors import TargetError
from rl_compress.validation import did_you_mean

T = TypeVar("T")


def choose(key: str, value: Any, choices: Mapping[str, T]) -> T:
    """Return what a name stands for.

    Args:
        key: The option's name.
        value: What the job says.
        choices: All allowed names.

    Raises:
        TargetError: There is no such choice.
    """
    if isinstance(value, str) and value in choices:
        return choices[value]
    raise TargetError(
        f"target.options.{key}: must be one of {', '.join(choices)}, but got {value!r}"
        f"{did_you_mean(str(value), choices)}"
    )


def require_whole_numbers(*, at_least: int, **options: Any) -> None:
    """Make sure that options are integers from ``at_least`` on.

    Raises:
        TargetError: One of them is not; the message names it.
    """
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise TargetError(
                f"target.options.{key}: must be a whole number from {at_least} on, "
                f"but got {value!r}"
            )
