"""A search beside its baselines: the best so far, by algorithm, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.report.formatting import format_count, format_score
from rl_compress.report.page import Content
from rl_compress.report.plots import best_so_far_plot
from rl_compress.report.run_files import RunFiles

_SHARES = (0.1, 0.25, 0.5, 1.0)
"""Parts of the search's evaluations at which the table compares."""


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One algorithm, over the seeds that it was run with."""

    algorithm: str
    best: tuple[npt.NDArray[np.float64], ...]
    """For each seed the highest reward so far, shape ``(num_evaluations,)``."""
    sensitivity_evaluations: int
    """What the sensitivity curves that it starts from took, on top of its evaluations."""

    def after(self, count: int) -> tuple[npt.NDArray[np.float64], int]:
        """Return each seed's best after ``count`` evaluations, and how many the longest made."""
        made = max(min(count, len(best)) for best in self.best)
        return np.array([best[min(count, len(best)) - 1] for best in self.best]), made

    def together(self) -> npt.NDArray[np.float64]:
        """Return :attr:`best` of all seeds, a row each, as far as all of them came."""
        return np.stack([best[: min(map(len, self.best))] for best in self.best])


def contenders(files: RunFiles) -> list[Contender]:
    """Return the search that the run is about, then its baselines by the best they found."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    started: dict[str, int] = {}
    for records, curves in [(files.evaluations, files.sensitivity), *files.beside]:
        if not records:
            continue
        rewards = np.array(
            [record.reward if files.may_win(record) else np.nan for record in records]
        )
        algorithm = records[0].algorithm
        found.setdefault(algorithm, []).append(np.fmax.accumulate(rewards))
        started.setdefault(algorithm, count_sensitivity_evaluations(curves))
    all_of_them = [Contender(name, tuple(best), started[name]) for name, best in found.items()]
    return all_of_them[:1] + sorted(
        all_of_them[1:], key=lambda one: -float(np.mean([best[-1] for best in one.best]))
    )


def count_sensitivity_evaluations(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return how many variants sensitivity curves took; all curves share the uncompressed one."""
    curves = {(row["group"], row.get("decides")) for row in rows}
    return len(rows) - len(curves) + 1 if rows else 0


def against_baselines(files: RunFiles) -> Content | None:
    """Show every algorithm's best so far, and compare at equal numbers of evaluations."""
    if not files.beside or not files.evaluations:
        return None
    name, entered = files.maximised, contenders(files)
    total = len(files.evaluations)
    counts = list(dict.fromkeys(max(1, round(share * total)) for share in _SHARES))
    return {
        "name": name,
        "entered": entered,
        "counts": counts,
        "columns": [format_count(count, "evaluation") for count in counts],
        "cell": _cell,
        "svg": best_so_far_plot({one.algorithm: one.together() for one in entered}, figure=name),
    }


def _cell(name: str, one: Contender, count: int) -> str:
    values, made = one.after(count)
    text = format_score(name, float(values.mean()))
    if len(values) > 1:
        low, high = format_score(name, float(values.min())), format_score(name, float(values.max()))
        text += f" [{low}, {high}]"
    return text if made == count else f"{text} (it ended after {made})"
