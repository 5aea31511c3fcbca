"""An evaluator that keeps what it measured, over all runs of the benchmark."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from rl_compress.errors import EvaluationError
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.measurement import Measurement
from rl_compress.evaluation.racing import Rival
from rl_compress.space.search_space import Levels

logger = logging.getLogger(__name__)


class MeasuredOnce:
    """Stands for an :class:`Evaluator`; a variant measured before is answered from a file.

    What a search is charged does not change: its ledger counts the variant as an evaluation all the
    same, and the time that measuring took is part of the answer. Scores are deterministic, so the
    answer is what measuring again would give.
    """

    def __init__(self, evaluator: Evaluator, path: Path) -> None:
        """Read what earlier runs measured.

        Args:
            evaluator: Measures what is new; must not measure latencies, which differ each time.
            path: A JSON line for each variant; appended to. Several processes may share it.
        """
        self.evaluator = evaluator
        self.measured = 0
        self._path = path
        self._known: dict[tuple[int, ...], Measurement] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                found = json.loads(line)
                levels = tuple(found.pop("levels"))
            except (ValueError, KeyError):
                continue  # a process was killed while it wrote, or it is of an earlier release
            self._known[levels] = Measurement(**found)

    def __len__(self) -> int:
        return len(self._known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.evaluator, name)

    def evaluate(self, levels: Levels, _rival: Rival | None = None) -> Measurement:
        """Return what measuring a variant in full gave, now or before."""
        key = tuple(levels.tolist())
        if key not in self._known:
            self.remember(levels, self.evaluator.evaluate(levels))
            self.measured += 1
        return self._known[key]

    def score_or_none(self, levels: Levels) -> float | None:
        """Return a variant's score, or None if it cannot be evaluated."""
        try:
            return self.evaluate(levels).score
        except EvaluationError as error:
            logger.warning("%s", error)
            return None

    def remember(self, levels: Levels, found: Measurement) -> None:
        """Keep a measurement, such as one that an env runner made."""
        key = tuple(levels.tolist())
        if key in self._known:
            return
        self._known[key] = found
        row = {"levels": list(key), **dataclasses.asdict(found)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
