"""Means over seeds, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values; the deviation of a single one is 0."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(float(np.mean(values)), deviation, len(values))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.count)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.count > 1 else "")


def compare(ours: Spread, theirs: Spread) -> str:
    """Say whether a score, of which more is better, is at least another."""
    difference = ours.mean - theirs.mean
    error = math.hypot(ours.standard_error, theirs.standard_error)
    if difference >= 0:
        verdict = "met"
    elif difference >= -error:
        verdict = "not met, but within one standard error"
    else:
        verdict = "not met"
    return f"difference {difference:+.4f} (standard error {error:.4f}): {verdict}"
