"""Keeps Ray's start-up chatter off the console, in the driver and in every worker process."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from rl_compress.logs import configure_from_environment

_NOISY = ("ray._common.deprecation", "ray.rllib.algorithms", "ray.rllib.core", "ray.rllib.utils")


def quiet() -> None:
    """Silence what no user can act on; errors stay. Call before RLlib is imported.

    Every worker begins with it, so it also lets our own log lines out as the driver does.
    """
    configure_from_environment()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\.|gymnasium\.")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # TQC's loss compares every quantile with every target, by broadcasting, as it should.
    sizes = r"Using a target size \(torch\.Size\(\[\d+, 1, \d+\]\)\)"
    warnings.filterwarnings("ignore", sizes, UserWarning)


@contextlib.contextmanager
def without_native_warnings() -> Iterator[None]:
    """Keep Ray's C++ core quiet, which warns of every runner that RLlib itself makes restartable.

    It writes to the file descriptor, past Python's loggers; errors still arrive as exceptions.
    """
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
