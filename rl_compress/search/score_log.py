"""Scores measured so far, kept while the sensitivity curves are not complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rl_compress.policy.search_space import Widths


class ScoreLog:
    """Remembers scores across a kill, a line of JSON each.

    The curves take many evaluations on a large target; an interrupted run goes on where it was.
    """

    def __init__(self, path: Path, measure: Callable[[Widths], float | None]) -> None:
        """Read what an earlier process logged.

        Args:
            path: The log, made when the first score is written.
            measure: Scores widths of shape ``(num_groups,)``; None if they cannot be evaluated.
        """
        self._path = path
        self._measure = measure
        self._known: dict[tuple[int, ...], float | None] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote this line
            self._known[tuple(entry["widths"])] = entry["score"]

    def __call__(self, widths: Widths) -> float | None:
        """Return the score of widths, measured now or before."""
        key = tuple(int(width) for width in widths)
        if key not in self._known:
            self._known[key] = self._measure(widths)
            with self._path.open("a", encoding="utf-8") as file:
                # The line break comes first, so that half a line never spoils the next.
                file.write("\n" + json.dumps({"widths": key, "score": self._known[key]}))
        return self._known[key]

    def close(self) -> None:
        """Remove the log: the curves are complete."""
        self._path.unlink(missing_ok=True)
