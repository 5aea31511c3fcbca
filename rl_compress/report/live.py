"""The live line of a run in progress."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from rl_compress.evaluation.ledger import Progress as SearchProgress


class ConsoleMonitor:
    """Draws a run's progress as one line.

    On a pipe and in a notebook it prints a line for each phase, and for each fifth of the search.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Draw on standard error, so that standard output holds results alone."""
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._phase = ""
        self._task: int | None = None
        self._first: tuple[int, float] | None = None
        self._last: SearchProgress | None = None
        self._fifth = 0
        self._lock = threading.Lock()
        self._directory: str | None = None
        self.budget = ""
        """The budget in words, for the live line."""

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        if line.startswith("run directory: "):
            self._directory = line.removeprefix("run directory: ")
        self._console.print(line, highlight=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        """Begin a new live line."""
        self.close()
        self._phase = name
        self._task = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        if not self._console.is_terminal:
            self._console.print(f"{name} …", highlight=False)
        self._bar.start()

    def step(self, done: int, total: int) -> None:
        """Advance a phase of known length, such as sensitivities or epochs."""
        name = "sensitivity" if self._phase == "search" else self._phase
        self._draw(name, done, total, "")

    def searched(self, progress: SearchProgress) -> None:
        """Advance the search."""
        with self._lock:
            now = time.monotonic()
            self._last = progress
            if self._first is None:
                self._first = (progress.done, now)
            since, start = self._first
            before, self._fifth = self._fifth, 5 * progress.done // max(progress.limit, 1)
            rate = (progress.done - since) / (now - start) if now > start else 0.0
        best = f"best {progress.best.score:.4f}" if progress.best else "best –"
        facts = ", ".join(filter(None, [best, self.budget, f"{rate:.1f} evaluations/s"]))
        if self._fifth > before and not self._console.is_terminal:
            self._console.print(
                f"search {progress.done}/{progress.limit}, {facts}", highlight=False, soft_wrap=True
            )
        self._draw("search", progress.done, progress.limit, facts)

    def interruption(self) -> str:
        """Say what an interruption left behind."""
        kept = self._last.done if self._last else 0
        hint = ""
        if self._directory:
            kept_in = f"at least {kept} evaluations are kept in {self._directory}"
            hint = f"; {kept_in}, continue with --resume"
        return f"interrupted during {self._phase or 'start'}{hint}"

    def close(self) -> None:
        """Remove the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, name: str, done: int, total: int, facts: str) -> None:
        bar = self._bar
        if bar is None:
            return
        with self._lock:
            known = self._task is not None and bar.tasks and bar.tasks[-1].description == name
            if not known:
                for task in bar.task_ids:
                    bar.remove_task(task)
                self._task = bar.add_task(name, total=total, facts=facts)
        bar.update(self._task, completed=done, total=total, facts=facts)  # type: ignore[arg-type]
