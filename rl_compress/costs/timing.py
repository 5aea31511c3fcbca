"""Times of several programs, measured in turn: median and spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_compress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes, in milliseconds."""

    median: float
    low: float
    """A quarter of the calls took less."""
    high: float
    """A quarter of the calls took more."""

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper."""
        return self.low, self.high


def interleaved(
    calls: Sequence[Callable[[], Any]],
    *,
    warmup: int,
    repeats: int,
    lead_in: int = 0,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Timing]:
    """Time calls in turn.

    Args:
        calls: What to time.
        warmup: Calls of each before the first that is timed.
        repeats: Calls of each that are timed, at least 1.
        lead_in: Calls right before each one that is timed. Kernels of many models are more than
            torch keeps; it must not be timed making them again.
        advance: Hears of the turns done, and of their total.

    Raises:
        ConfigError: There is nothing to repeat.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, but got {repeats}")
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(warmup):
        for call in calls:
            call()
    for repeat in range(repeats):
        turn = list(zip(calls, times, strict=True))
        # The order alternates, so that none always finds another's data in cache.
        for call, measured in turn if repeat % 2 == 0 else reversed(turn):
            for _ in range(lead_in):
                call()
            start = time.perf_counter()
            call()
            measured.append(1e3 * (time.perf_counter() - start))
        advance(repeat + 1, repeats)
    quartiles = (np.percentile(measured, (50, 25, 75)) for measured in times)
    return [Timing(*map(float, three)) for three in quartiles]
