"""What a run tells of itself while it works: drawn on the command line, else silent."""

from __future__ import annotations

from typing import Protocol

from rl_compress.evaluation.ledger import Progress


class Monitor(Protocol):
    """Hears of a run's phases."""

    def say(self, line: str) -> None:
        """Hear a fact in one line."""

    def phase(self, name: str) -> None:
        """Hear that a phase begins: its name is also what an interruption is reported with."""

    def step(self, done: int, total: int) -> None:
        """Hear of progress within the phase."""

    def searched(self, progress: Progress) -> None:
        """Hear of progress within the search."""


class SilentMonitor:
    """Hears, and says nothing."""

    def say(self, line: str) -> None:
        """Drop the line."""

    def phase(self, name: str) -> None:
        """Drop the name."""

    def step(self, done: int, total: int) -> None:
        """Drop the figures."""

    def searched(self, progress: Progress) -> None:
        """Drop the figures."""
