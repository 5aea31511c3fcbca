"""The report of a sweep: one self-contained HTML file over all trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rl_compress.report.formatting import COST_ROWS, format_cell
from rl_compress.report.page import Content, Section, given, write_page
from rl_compress.report.plots import pareto_plot
from rl_compress.report.run_files import read_rows
from rl_compress.report.sweep_files import TRIALS, SweepFiles, read_sweep
from rl_compress.report.sweep_front import SweepFront
from rl_compress.report.sweep_keys import FEWEST_TRIALS, Importances, column, importances
from rl_compress.report.sweep_plots import (
    heat_map,
    importance_bars,
    loss_curves,
    parallel_coordinates,
    volume_curve,
)
from rl_compress.runs.pareto import SCORE

SWEEP_FIGURES = (
    "best_score",
    "best_reward",
    "hypervolume",
    "delivered_score",
    "test_before",
    "test_after",
    "mse_before",
    "mse_after",
    "params_share",
    "size_bytes_share",
)
"""Figures of a trial that tables show, where they exist."""

_COUNTS = ("evaluations", "cache_hits", "status")
_COMPARED = ("best_score", "delivered_score")
"""Figures that keys are held against: both of the search split, before and after fine-tuning."""

_HEAT_KEYS = ("contribution.alpha", "contribution.threshold")
_MOST_ROWS = 30
_HISTORY = "contribution.parquet"


def _headline(sweep: SweepFiles) -> str:
    if (best := sweep.best) is None:
        return f"None of {len(sweep.rows)} trials succeeded"
    chosen = ", ".join(f"{key} {format_cell(best[key])}" for key in sweep.keys)
    return f"Best of {len(sweep.rows)} trials: {chosen}"


def _trials(sweep: SweepFiles) -> Content:
    rows = sorted(sweep.rows, key=lambda row: -(_number(row, "best_score") or -np.inf))
    figures = [name for name in SWEEP_FIGURES if any(row.get(name) is not None for row in rows)]
    milliseconds = 1e3 * sum(row.get("seconds") or 0.0 for row in rows)
    return {"rows": rows, "names": [*sweep.keys, *figures, *_COUNTS], "ms": milliseconds}


def _varied(sweep: SweepFiles) -> list[str]:
    return [key for key in sweep.keys if len({str(row[key]) for row in sweep.done}) > 1]


def _compared(sweep: SweepFiles) -> list[str]:
    """Return the figures that all trials have, and that differ between them."""
    found = []
    for name in _COMPARED:
        values = [_number(row, name) for row in sweep.done]
        if all(value is not None for value in values) and len(set(values)) > 1:
            found.append(name)
    return found


def _parallel(sweep: SweepFiles) -> Content | None:
    names = [*_varied(sweep), *_compared(sweep)]
    if len(sweep.done) < 2 or len(names) < 2:
        return None
    svg = parallel_coordinates([column(sweep.done, name) for name in names])
    remark = f"Each line is a trial; the bluer, the higher its {names[-1]}."
    return {"remark": remark, "drawings": [svg]}


def _importances(sweep: SweepFiles) -> dict[str, Importances]:
    columns = [column(sweep.done, key) for key in _varied(sweep)]
    found = {}
    for name in _compared(sweep) if columns else []:
        one = importances(columns, column(sweep.done, name).values)
        if one is not None:
            found[name] = one
    return found


def _importance(sweep: SweepFiles) -> Content | None:
    found = _importances(sweep)
    if not found:
        return None
    explained = "; ".join(f"{one.explained:.2f} for {name}" for name, one in found.items())
    remark = (
        f"Permutation importance in a random forest over {len(sweep.done)} trials. Its R² on "
        f"trials that it was not fitted to is {explained}; near or below 0 it predicts nothing, "
        f"and the bars are noise."
    )
    return {"remark": remark, "drawings": [importance_bars(_varied(sweep), found)]}


def _heat_map(sweep: SweepFiles) -> Content | None:
    figures = _compared(sweep)
    numbers = [key for key in _varied(sweep) if not column(sweep.done, key).words]
    if len(numbers) < 2 or not figures:
        return None
    figure = figures[-1]
    columns = [column(sweep.done, name) for name in (*_most_telling(sweep, numbers), figure)]
    remark = f"{figure} of the trials, the best of those that share both values."
    return {"remark": remark, "drawings": [heat_map(*columns, score=figure)]}


def _most_telling(sweep: SweepFiles, numbers: list[str]) -> tuple[str, str]:
    """Return alpha and the threshold where both vary, else the two keys that matter most."""
    if set(_HEAT_KEYS) <= set(numbers):
        return _HEAT_KEYS
    found, varied = _importances(sweep), _varied(sweep)
    if found:
        means = dict(zip(varied, next(reversed(found.values())).mean, strict=True))
        numbers = sorted(numbers, key=lambda key: -means[key])
    return numbers[0], numbers[1]


def _front_of(sweep: SweepFiles) -> SweepFront:
    budgeted = next((run.space.get("budget") or {} for run in sweep.runs.values() if run.space), {})
    chosen = sweep.job["objective"].get("pareto")
    return SweepFront(sweep.runs, chosen or [SCORE, *budgeted])


def _volume(sweep: SweepFiles) -> Content | None:
    front = _front_of(sweep)
    course = front.course()
    if len(course) < 2:
        return None
    remark = (
        f"What the variants of all trials together dominate in {', '.join(front.objectives)}, as a "
        f"fraction of what the best score at no cost would; a variant counts once, when it was "
        f"measured."
    )
    return {"remark": remark, "drawings": [volume_curve(course)]}


def _joint_front(sweep: SweepFiles) -> Content | None:
    """Show what no variant of any trial beats, over the first of the costs."""
    front, score = _front_of(sweep), sweep.job["objective"]["score"]
    records = front.front()
    costs = [name for name in front.objectives if name != SCORE]
    if not records or not costs:
        return None
    cost, svg = costs[0], None
    if SCORE in front.objectives:
        measured, on_front = (
            [(each.costs[cost], each.score) for each in some if cost in each.costs]
            for some in (front.records(), records)
        )
        svg = pareto_plot(measured, cost=cost, score=score, front=on_front)
    shares = {trial: sum(r.trial == trial for r in records) for trial in sweep.runs}
    return {
        "svg": svg,
        "score": score,
        "costs": costs,
        "columns": [COST_ROWS[name] for name in costs],
        "records": sorted(records, key=lambda record: -record.score),
        "shares": {trial: count for trial, count in shares.items() if count},
        "most": _MOST_ROWS,
    }


def _features(sweep: SweepFiles) -> Content | None:
    """Show which features each trial kept, where the target knows which of them inform."""
    known = sweep.done[0].get("informative_features") if sweep.done else None
    return None if known is None else {"known": known}


def _losses(sweep: SweepFiles) -> Content | None:
    """Draw the loss under the keep-ratios over the iterations of contribution pruning."""
    curves = {}
    for row in sweep.done:
        path = sweep.directory / TRIALS / row["trial"] / _HISTORY
        if path.exists():
            history = read_rows(path, ("iteration", "loss"))
            by_iteration = {one["iteration"]: one["loss"] for one in history}
            values = [f"{key.rpartition('.')[2]} {format_cell(row[key])}" for key in sweep.keys]
            curves[", ".join(values)] = [by_iteration[index] for index in sorted(by_iteration)]
    if not any(len(losses) > 1 for losses in curves.values()):
        return None
    remark = "Training loss on the calibration split under the keep-ratios, before each iteration."
    return {"remark": remark, "drawings": [loss_curves(curves)]}


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


SECTIONS: tuple[Section[SweepFiles], ...] = (
    Section("Trials", _trials, "trials.html"),
    Section("All keys at once", _parallel, absent="There are no two trials that differ."),
    Section(
        "Importance of the keys",
        _importance,
        absent=f"It takes {FEWEST_TRIALS} trials that differ in a key and in their scores.",
    ),
    Section("Two keys against each other", _heat_map, absent="Fewer than two numbers were varied."),
    Section("Hypervolume over time", _volume, absent="No two variants with different scores."),
    Section(
        "Pareto front of all trials",
        _joint_front,
        "joint_front.html",
        absent="No variant was evaluated.",
    ),
    Section("Features kept", _features, "features.html"),
    Section("Loss curves", _losses),
    Section("Job", given("job_yaml"), "job.html"),
)


def build_sweep_report(directory: Path) -> Path:
    """Write the report of a sweep from its directory, and return its path.

    Raises:
        CorruptFileError: A file cannot be read; the message names it.
    """
    sweep = read_sweep(directory)
    return write_page(directory, SECTIONS, sweep, name=sweep.job["name"], headline=_headline(sweep))
