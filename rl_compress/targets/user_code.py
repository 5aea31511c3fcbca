"""Errors of a user's own code: one line that names the method, what was raised, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rl_compress.errors import RLCompressError, TargetError, summary


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Name what failed, such as ``score() of MyTarget``, in a TargetError."""
    try:
        yield
    except RLCompressError:
        raise
    # Code that parses the command line ends with SystemExit.
    except (Exception, SystemExit) as error:
        raise TargetError(f"target: {what} failed ({summary(error)})") from error
