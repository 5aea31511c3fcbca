"""The report of a sweep: one self-contained HTML file over all trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rl_compress.report.formatting import COST_ROWS, format_cost, format_latency, format_score
from rl_compress.report.page import Markup, code, drawing, listing, page, paragraph, section
from rl_compress.report.page import table as html_table
from rl_compress.report.plots import Point, pareto_plot
from rl_compress.report.sweep_files import TRIALS, SweepFiles, read_rows, read_sweep
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


def build_sweep_report(directory: Path) -> Path:
    """Write the report of a sweep from its directory, and return its path.

    Raises:
        CorruptFileError: A file cannot be read; the message names it.
    """
    sweep = read_sweep(directory)
    front = _front_of(sweep)
    text = page(
        sweep.job["name"],
        _headline(sweep),
        _trials(sweep),
        _parallel(sweep),
        _importance(sweep),
        _heat_map(sweep),
        _volume(front),
        _joint_front(sweep, front),
        _features(sweep),
        _losses(sweep),
        section("Job", listing(sweep.job_yaml)),
    )
    path = directory / "report.html"
    unfinished = path.with_name("report.html.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return path


def sweep_cell(value: Any) -> str:
    """Write a value of a trial's row for a table."""
    if value is None:
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _headline(sweep: SweepFiles) -> str:
    if (best := sweep.best) is None:
        return f"None of {len(sweep.rows)} trials succeeded"
    chosen = ", ".join(f"{key} {sweep_cell(best[key])}" for key in sweep.keys)
    return f"Best of {len(sweep.rows)} trials: {chosen}"


def _trials(sweep: SweepFiles) -> Markup:
    rows = sorted(sweep.rows, key=lambda row: -(_number(row, "best_score") or -np.inf))
    figures = [name for name in SWEEP_FIGURES if any(row.get(name) is not None for row in rows)]
    names = (*sweep.keys, *figures, *_COUNTS)
    cells = [(code(row["trial"]), *(sweep_cell(row.get(name)) for name in names)) for row in rows]
    parts = [html_table(("trial", *names), cells, figures=True)]
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    parts.append(
        paragraph(
            f"Every trial is a run of its own in trials/, with its own report; together they took "
            f"{format_latency(1e3 * seconds)}. best_score ({sweep.job['objective']['score']}) is "
            f"on the search split, before fine-tuning, and delivered_score, the target's own, on "
            f"the same split after it; shares are of the uncompressed model's. hypervolume is what "
            f"a trial's variants dominate, which does not depend on the weights of its reward. "
            f"Cache hits are evaluations that another trial had made.",
            "note",
        )
    )
    failed = [row for row in rows if row["status"] == "failed"]
    parts += [paragraph(f"{row['trial']} failed: {row['error']}", "note") for row in failed]
    return section("Trials", *parts)


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


def _parallel(sweep: SweepFiles) -> Markup:
    title, names = "All keys at once", [*_varied(sweep), *_compared(sweep)]
    if len(sweep.done) < 2 or len(names) < 2:
        return section(title, paragraph("There are no two trials that differ.", "absent"))
    svg = parallel_coordinates([column(sweep.done, name) for name in names])
    note = f"Each line is a trial; the bluer, the higher its {names[-1]}."
    return section(title, paragraph(note, "note"), drawing(svg))


def _importances(sweep: SweepFiles) -> dict[str, Importances]:
    columns = [column(sweep.done, key) for key in _varied(sweep)]
    found = {}
    for name in _compared(sweep) if columns else []:
        one = importances(columns, column(sweep.done, name).values)
        if one is not None:
            found[name] = one
    return found


def _importance(sweep: SweepFiles) -> Markup:
    title, found = "Importance of the keys", _importances(sweep)
    if not found:
        text = f"It takes {FEWEST_TRIALS} trials that differ in a key and in their scores."
        return section(title, paragraph(text, "absent"))
    explained = "; ".join(f"{one.explained:.2f} for {name}" for name, one in found.items())
    note = (
        f"Permutation importance in a random forest over {len(sweep.done)} trials. Its R² on "
        f"trials that it was not fitted to is {explained}; near or below 0 it predicts nothing, "
        f"and the bars are noise."
    )
    svg = importance_bars(_varied(sweep), found)
    return section(title, paragraph(note, "note"), drawing(svg))


def _heat_map(sweep: SweepFiles) -> Markup:
    title, figures = "Two keys against each other", _compared(sweep)
    numbers = [key for key in _varied(sweep) if not column(sweep.done, key).words]
    if len(numbers) < 2 or not figures:
        return section(title, paragraph("Fewer than two numbers were varied.", "absent"))
    across, down = _most_telling(sweep, numbers)
    figure = figures[-1]
    columns = [column(sweep.done, name) for name in (across, down, figure)]
    svg = heat_map(*columns, score=figure)
    note = f"{figure} of the trials, the best of those that share both values."
    return section(title, paragraph(note, "note"), drawing(svg))


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


def _volume(front: SweepFront) -> Markup:
    title, course = "Hypervolume over time", front.course()
    if len(course) < 2:
        return section(title, paragraph("No two variants with different scores.", "absent"))
    note = (
        f"What the variants of all trials together dominate in {', '.join(front.objectives)}, as a "
        f"fraction of what the best score at no cost would; a variant counts once, when it was "
        f"measured."
    )
    return section(title, paragraph(note, "note"), drawing(volume_curve(course)))


def _joint_front(sweep: SweepFiles, front: SweepFront) -> Markup:
    """Show what no variant of any trial beats, over the first of the costs."""
    title, score = "Pareto front of all trials", sweep.job["objective"]["score"]
    records = front.front()
    costs = [name for name in front.objectives if name != SCORE]
    if not records or not costs:
        return section(title, paragraph("No variant was evaluated.", "absent"))
    cost, parts = costs[0], []
    if SCORE in front.objectives:
        everything = [
            Point(record.costs()[cost], record.score)
            for record in front.records()
            if cost in record.costs()
        ]
        on_front = [Point(record.costs()[cost], record.score) for record in records]
        svg = pareto_plot(everything, cost=cost, score=score, front=on_front)
        parts.append(drawing(svg))
    header = ("trial", "evaluation", score, *(COST_ROWS[name] for name in costs))
    ordered = sorted(records, key=lambda record: -record.score)[:_MOST_ROWS]
    cells = [
        (
            code(record.trial),
            str(record.evaluation_id),
            format_score(score, record.score),
            *(format_cost(name, record.costs()[name]) for name in costs),
        )
        for record in ordered
    ]
    shares = {trial: sum(r.trial == trial for r in records) for trial in sweep.runs}
    trials = ", ".join(f"{trial} {count}" for trial, count in shares.items() if count)
    note = f"{len(records)} variants that no other of any trial beats; by trial: {trials}."
    if len(records) > len(ordered):
        note += f" The table shows the {len(ordered)} with the highest scores."
    parts += [paragraph(note, "note"), html_table(header, cells, figures=True)]
    return section(title, *parts)


def _features(sweep: SweepFiles) -> Markup:
    """Show which features each trial kept, where the target knows which of them inform."""
    rows, keys = sweep.done, sweep.keys
    if not rows or rows[0].get("informative_features") is None:
        return Markup("")
    cells = []
    for row in rows:
        kept, known = set(row["features_kept"]), set(row["informative_features"])
        if kept == known:
            verdict = "exactly the informative ones"
        else:
            verdict = f"{len(known - kept)} informative missing, {len(kept - known)} others kept"
        names = ", ".join(f"{f}{'' if f in known else ' (not informative)'}" for f in sorted(kept))
        cells.append((*(sweep_cell(row[key]) for key in keys), str(len(kept)), verdict, names))
    header = (*keys, "kept", "of which", "features")
    note = f"Informative are {', '.join(map(str, rows[0]['informative_features']))}."
    return section(
        "Features kept", paragraph(note, "note"), html_table(header, cells, figures=False)
    )


def _losses(sweep: SweepFiles) -> Markup:
    """Draw the loss under the keep-ratios over the iterations of contribution pruning."""
    curves = {}
    for row in sweep.done:
        path = sweep.directory / TRIALS / row["trial"] / _HISTORY
        if path.exists():
            losses = read_rows(path, ["iteration", "loss"]).to_pydict()
            by_iteration = dict(zip(losses["iteration"], losses["loss"], strict=True))
            values = [f"{key.rpartition('.')[2]} {sweep_cell(row[key])}" for key in sweep.keys]
            curves[", ".join(values)] = [by_iteration[index] for index in sorted(by_iteration)]
    if not any(len(losses) > 1 for losses in curves.values()):
        return Markup("")
    note = "Training loss on the calibration split under the keep-ratios, before each iteration."
    return section("Loss curves", paragraph(note, "note"), drawing(loss_curves(curves)))


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
