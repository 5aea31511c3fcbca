"""Errors of a user's own code: one line that names the method, what was raised, and where."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from rl_compress.errors import RLCompressError, TargetError


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


def summary(error: BaseException) -> str:
    """Return type, message and place of an error in one line."""
    text = " ".join(str(error).split())[:200]
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if "site-packages" not in frame.filename and "<frozen" not in frame.filename
    ]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {text}{place}"
