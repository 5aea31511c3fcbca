"""The benchmark's files: a JSON for each target, and the table that is built from them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_compress.runs.environment import describe_environment
from rl_compress.targets.cache import cache_dir

from .statistics import Spread, compare

MARKS = (1, 10, 25, 50, 100, 200, 300, 400)
"""Evaluations at which the best score so far is kept."""

TABLE = "search_quality.md"


class TargetResults:
    """Results of one target: a row for each variant and seed, kept as soon as it is there."""

    def __init__(self, folder: Path, target: str) -> None:
        """Name the file; nothing is written."""
        self.path = folder / f"{target}.json"
        self.target = target

    def read(self) -> dict[str, Any]:
        """Return what the file holds."""
        if not self.path.exists():
            return {"target": self.target, "curves": {}, "variants": {}}
        return json.loads(self.path.read_text(encoding="utf-8"))

    def has(self, variant: str, seed: int, evaluations: int) -> bool:
        """Say whether a run with as many evaluations is in the file."""
        rows = self.read()["variants"].get(variant, {}).get("seeds", {})
        return str(seed) in rows and rows[str(seed)]["evaluations_asked"] >= evaluations

    def check(self, job: dict[str, Any]) -> None:
        """Make sure that the rows in the file are of the same problem.

        Raises:
            SystemExit: They are not; the message names the remedy.
        """
        known = self.read().get("job", job)
        if wrong := sorted(name for name in job if known.get(name) != job[name]):
            raise SystemExit(
                f"{self.path}: its results are of another job or target ({', '.join(wrong)} "
                f"differ); remove the file, or name another folder with --out"
            )

    def forget(self, variants: list[str]) -> None:
        """Drop variants, to be run again."""
        with self._changed() as data:
            for name in variants:
                data["variants"].pop(name, None)

    def add(
        self,
        variant: str,
        seed: int,
        row: dict[str, Any],
        *,
        job: dict[str, Any],
        search: dict[str, Any],
        overrides: dict[str, Any],
        curves: dict[str, int],
    ) -> None:
        """Keep a run.

        Args:
            variant: Its name.
            seed: Its seed.
            row: What was measured.
            job: What all runs of the file have in common.
            search: The job's search section.
            overrides: What makes the variant.
            curves: Evaluations of the sensitivity curves by their number of levels.
        """
        with self._changed() as data:
            data["job"] = job
            data["curves"] |= curves
            kept = data["variants"].setdefault(variant, {"seeds": {}})
            kept |= {
                "overrides": overrides,
                "search": search,
                "environment": describe_environment(),
            }
            kept["seeds"][str(seed)] = row
            kept["seeds"] = dict(sorted(kept["seeds"].items(), key=lambda pair: int(pair[0])))
            kept["summary"] = summary(kept["seeds"])

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """Hand out the content, then write it; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = cache_dir() / "benchmark" / f"{self.target}.lock"
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = self.read()
            yield data
            unfinished = self.path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            unfinished.rename(self.path)


def summary(seeds: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return mean and spread over seeds at every mark that all of them reach."""
    rows = list(seeds.values())
    marks = [mark for mark in rows[0]["best"] if all(mark in row["best"] for row in rows)]
    spreads = {mark: Spread.of([row["best"][mark] for row in rows]) for mark in marks}
    return {
        mark: {"mean": spread.mean, "sd": spread.deviation, "n": spread.count}
        for mark, spread in spreads.items()
    }


def write_table(folder: Path) -> Path:
    """Build the Markdown table from all JSON files of a folder."""
    lines = [
        "# Search quality",
        "",
        "Best score (minus the KL divergence from the original's outputs, higher is better) after "
        "N evaluations, mean ± standard deviation over seeds. `curves` are evaluations made for "
        "the sensitivity curves before the first, on top of N. Built from the JSON files beside "
        "it, which hold every seed, hardware, versions and configuration.",
    ]
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("variants"):
            lines += ["", *_section(data)]
    table = folder / TABLE
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def _section(data: dict[str, Any]) -> Iterator[str]:
    variants = data["variants"]
    marks = sorted({int(mark) for kept in variants.values() for mark in kept["summary"]})
    budget = ", ".join(f"{cost} {bound}" for cost, bound in data["job"]["budget"].items())
    yield f"## {data['target']}: {budget}"
    yield ""
    heads = ["search", "seeds", "curves", *map(str, marks), "seconds"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for name, kept in variants.items():
        rows = list(kept["seeds"].values())
        found = (kept["summary"].get(str(mark)) for mark in marks)
        cells = [str(Spread(at["mean"], at["sd"], at["n"])) if at else "" for at in found]
        seconds = Spread.of([row["seconds"] for row in rows]).mean
        curves = rows[0]["curve_evaluations"]
        yield f"| {' | '.join([name, str(len(rows)), str(curves), *cells, f'{seconds:.0f}'])} |"
    yield ""
    yield verdict(data)


def verdict(data: dict[str, Any]) -> str:
    """Compare PPO with the best baseline, each at the end of its evaluations."""
    ends = {}
    for name, kept in data["variants"].items():
        last = max(kept["summary"], key=int)
        at = kept["summary"][last]
        ends[name] = (int(last), Spread(at["mean"], at["sd"], at["n"]))
    learned = {"ppo", "sac", "amc"}
    baselines = {name: end for name, end in ends.items() if name.split("-")[0] not in learned}
    if "ppo" not in ends or not baselines:
        return f"{data['target']}: no verdict before both ppo and a baseline have been run"
    ours_at, ours = ends["ppo"]
    best = max(baselines, key=lambda name: baselines[name][1].mean)
    theirs_at, theirs = baselines[best]
    return (
        f"{data['target']}: ppo at {ours_at}{_curves(data, 'ppo')}: {ours}; the best baseline, "
        f"{best} at {theirs_at}{_curves(data, best)}: {theirs}; {compare(ours, theirs)}"
    )


def _curves(data: dict[str, Any], name: str) -> str:
    count = next(iter(data["variants"][name]["seeds"].values()))["curve_evaluations"]
    return f" (and {count} for the curves)" if count else ""
