"""What `joint` found: a row for each run, and the table that is built from the rows."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figures import read_study, write_study

from rl_compress.runs.environment import describe_environment
from rl_compress.targets.cache import cache_dir

from .statistics import Spread, compare

MARKS = (1, 10, 25, 50, 100, 200, 300, 400)
"""Evaluations at which the best score so far is kept."""

STUDY = "search_quality"

Row = dict[str, Any]


class TargetResults:
    """Results of one target: a row for each variant and seed, kept as soon as it is there."""

    def __init__(self, folder: Path, target: str) -> None:
        """Name the study; nothing is written."""
        self.study = folder / STUDY
        self.target = target

    def rows(self) -> list[Row]:
        """Return the target's rows."""
        rows = read_study(self.study).get("rows", [])
        return [row for row in rows if row["target"] == self.target]

    def has(self, variant: str, seed: int, evaluations: int) -> bool:
        """Say whether a run with as many evaluations is kept."""
        return any(
            (row["search"], row["seed"]) == (variant, seed) and row["asked"] >= evaluations
            for row in self.rows()
        )

    def check(self, job: dict[str, Any]) -> None:
        """Make sure that the rows kept are of the same problem.

        Raises:
            SystemExit: They are not; the message names the remedy.
        """
        known = read_study(self.study).get("problems", {}).get(self.target, job)
        if wrong := sorted(name for name in job if known.get(name) != job[name]):
            raise SystemExit(
                f"{self.study}.json: its results on {self.target} are of another job or target "
                f"({', '.join(wrong)} differ); remove them, or name another folder with --out"
            )

    def forget(self, variants: list[str]) -> None:
        """Drop variants, to be run again."""
        with self._changed() as data:
            data["rows"] = [
                row
                for row in data["rows"]
                if row["target"] != self.target or row["search"] not in variants
            ]

    def add(self, row: Row, *, job: dict[str, Any], overrides: dict[str, Any]) -> None:
        """Keep a run.

        Args:
            row: What was measured, with ``search`` and ``seed``.
            job: What all runs on the target have in common.
            overrides: What makes the variant.
        """
        with self._changed() as data:
            data["environment"] = describe_environment()
            data["problems"][self.target] = job
            data["searches"][row["search"]] = overrides
            data["rows"].append({"target": self.target, **row})

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """Hand out the content, then write it with its table; one process at a time."""
        lock_file = cache_dir() / "benchmark" / f"{STUDY}.lock"
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = read_study(self.study) or {"problems": {}, "searches": {}, "rows": []}
            yield data
            write_study(self.study, data, table(data))


def summary(rows: list[Row]) -> dict[int, Spread]:
    """Return mean and spread over seeds at every mark that all of them reach."""
    marks = [mark for mark in rows[0]["best"] if all(mark in row["best"] for row in rows)]
    return {int(mark): Spread.of([row["best"][mark] for row in rows]) for mark in marks}


def table(data: dict[str, Any]) -> str:
    """Return all targets' tables as a page."""
    lines = [
        "# Search quality",
        "",
        "Best score (minus the KL divergence from the original's outputs, higher is better) after "
        "N evaluations, mean ± standard deviation over seeds. `curves` are evaluations made for "
        "the sensitivity curves before the first, on top of N. Built from the file beside it, "
        "which holds every run, hardware, versions and configuration.",
    ]
    for target, job in data["problems"].items():
        rows = [row for row in data["rows"] if row["target"] == target]
        if rows:
            lines += ["", *_section(target, job, rows)]
    return "\n".join(lines)


def _by_search(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["search"], []).append(row)
    return found


def _section(target: str, job: dict[str, Any], rows: list[Row]) -> Iterator[str]:
    marks = sorted({int(mark) for row in rows for mark in row["best"]})
    budget = ", ".join(f"{cost} {bound}" for cost, bound in job["budget"].items())
    yield f"## {target}: {budget}"
    yield ""
    heads = ["search", "seeds", "curves", *map(str, marks), "seconds"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for name, runs in _by_search(rows).items():
        found = summary(runs)
        cells = [str(found.get(mark, "")) for mark in marks]
        seconds = Spread.of([run["seconds"] for run in runs]).mean
        line = [name, str(len(runs)), str(runs[0]["curve_evaluations"]), *cells, f"{seconds:.0f}"]
        yield f"| {' | '.join(line)} |"
    yield ""
    yield verdict(target, rows)


def verdict(target: str, rows: list[Row]) -> str:
    """Compare PPO with the best baseline, each at the end of its evaluations."""
    by_search = _by_search(rows)
    ends = {name: max(summary(runs).items()) for name, runs in by_search.items()}
    learned = {"ppo", "sac", "amc"}
    baselines = {name: end for name, end in ends.items() if name.split("-")[0] not in learned}
    if "ppo" not in ends or not baselines:
        return f"{target}: no verdict before both ppo and a baseline have been run"
    ours_at, ours = ends["ppo"]
    best = max(baselines, key=lambda name: baselines[name][1].mean)
    theirs_at, theirs = baselines[best]
    return (
        f"{target}: ppo at {ours_at}{_curves(by_search['ppo'])}: {ours}; the best baseline, "
        f"{best} at {theirs_at}{_curves(by_search[best])}: {theirs}; {compare(ours, theirs)}"
    )


def _curves(rows: list[Row]) -> str:
    count = rows[0]["curve_evaluations"]
    return f" (and {count} for the curves)" if count else ""
