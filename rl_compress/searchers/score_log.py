"""Scores measured so far, kept while the sensitivity curves are not complete."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_compress.runs.grants import MOST_LOSSES
from rl_compress.runs.written import written
from rl_compress.space.search_space import Levels, SearchSpace


class ScoreLog:
    """Remembers scores across a kill, a line of JSON each.

    The curves take many evaluations on a large target; an interrupted run goes on where it was.
    Levels whose measurement the process did not survive several times count as not evaluable.
    """

    def __init__(
        self, path: Path, space: SearchSpace, measure: Callable[[Levels], float | None]
    ) -> None:
        """Read what an earlier process logged.

        Args:
            path: The log, made when the first score is written.
            space: What levels stand for, which is what is logged.
            measure: Scores levels of shape ``(D,)``; None if they cannot be evaluated.
        """
        self._path, self._space = path, space
        self._measure = measure
        self._known: dict[tuple[int, ...], float | None] = {}
        self._begun: collections.Counter[tuple[int, ...]] = collections.Counter()
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote this line
            amounts = tuple(entry["widths"])
            if "score" in entry:
                self._known[amounts] = entry["score"]
            else:
                self._begun[amounts] += 1

    def __call__(self, levels: Levels) -> float | None:
        """Return the score of levels, measured now or before."""
        key = tuple(self._space.amounts(levels).tolist())
        if key not in self._known:
            self._note({"widths": key})
            deadly = self._begun[key] >= MOST_LOSSES
            self._known[key] = None if deadly else self._measure(levels)
            self._note({"widths": key, "score": self._known[key]})
        return self._known[key]

    def close(self) -> None:
        """Remove the log: the curves are complete."""
        self._path.unlink(missing_ok=True)

    def _note(self, entry: dict[str, Any]) -> None:
        with written(self._path), self._path.open("a", encoding="utf-8") as file:
            # The line break comes first, so that half a line never spoils the next.
            file.write("\n" + json.dumps(entry))
