"""Keeps Ray's start-up chatter off the console, in the driver and in every worker process."""

from __future__ import annotations

import logging
import os
import warnings

_NOISY = ("ray._common.deprecation", "ray.rllib.algorithms", "ray.rllib.core", "ray.rllib.utils")


def quiet() -> None:
    """Silence what no user can act on; errors stay. Call before RLlib is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # One thread for each process: runners are the unit of parallelism.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\.|gymnasium\.")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
