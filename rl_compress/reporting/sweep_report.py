"""The report of a sweep: one self-contained HTML file over all trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rl_compress.errors import CorruptFileError
from rl_compress.reporting.formatting import format_latency
from rl_compress.reporting.page import Markup, code, drawing, listing, page, paragraph, section
from rl_compress.reporting.page import table as html_table
from rl_compress.reporting.sweep_plots import heat_map, loss_curves

SWEEP_FILE = "sweep.parquet"
SWEEP_FIGURES = (
    "best_score",
    "best_reward",
    "test_before",
    "test_after",
    "mse_before",
    "mse_after",
    "params_share",
    "size_bytes_share",
)
"""Figures of a trial that tables show, where they exist."""

_HISTORY = "contribution.parquet"


def build_sweep_report(directory: Path) -> Path:
    """Write the report of a sweep from its directory, and return its path.

    Raises:
        CorruptFileError: A file cannot be read; the message names it.
    """
    rows = _read(directory / SWEEP_FILE).to_pylist()
    job_yaml = (directory / "job.yaml").read_text(encoding="utf-8")
    job = yaml.safe_load(job_yaml)
    keys = list(job["tune"]["space"])
    done = [row for row in rows if row["status"] == "done"]
    best = max(done, key=lambda row: row["best_score"], default=None)
    headline = f"{len(done)} of {len(rows)} trials succeeded"
    if best is not None:
        chosen = ", ".join(f"{key} {sweep_cell(best[key])}" for key in keys)
        headline = f"Best of {len(rows)} trials: {chosen}"
    text = page(
        job["name"],
        headline,
        _trials(rows, keys),
        _heat_map(done, keys, job["objective"]["score"]),
        _features(done, keys),
        _losses(done, keys, directory),
        section("Job", listing(job_yaml)),
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


def _trials(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Markup:
    figures = [name for name in SWEEP_FIGURES if any(row.get(name) is not None for row in rows)]
    cells = [
        (code(row["trial"]), *(sweep_cell(row.get(name)) for name in (*keys, *figures)))
        for row in rows
    ]
    parts = [html_table(("trial", *keys, *figures), cells, figures=True)]
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    parts.append(
        paragraph(
            f"Every trial is a run of its own in trials/, with its own report; together they took "
            f"{format_latency(1e3 * seconds)}. best_score is on the search split, before "
            f"fine-tuning; shares are of the uncompressed model's.",
            "note",
        )
    )
    failed = [row for row in rows if row["status"] != "done"]
    parts += [paragraph(f"{row['trial']} failed: {row['error']}", "note") for row in failed]
    return section("Trials", *parts)


def _heat_map(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], score: str) -> Markup:
    title = "Two keys against each other"
    numeric = [
        key
        for key in keys
        if len({row[key] for row in rows if isinstance(row[key], int | float)}) > 1
    ]
    if len(numeric) < 2:
        return section(title, paragraph("Fewer than two numbers were varied.", "absent"))
    across, down = numeric[0], numeric[1]
    figure = "test_after" if rows[0].get("test_after") is not None else "best_score"
    svg = heat_map(rows, across, down, figure, score=score)
    note = f"{figure} of the trials, the best of those that share both values."
    return section(title, paragraph(note, "note"), drawing(svg))


def _features(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Markup:
    """Show which features each trial kept, where the target knows which of them inform."""
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


def _losses(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], directory: Path) -> Markup:
    """Draw the loss under the keep-ratios over the iterations of contribution pruning."""
    curves = {}
    for row in rows:
        path = directory / "trials" / row["trial"] / _HISTORY
        if path.exists():
            losses = _read(path, ["iteration", "loss"]).to_pydict()
            by_iteration = dict(zip(losses["iteration"], losses["loss"], strict=True))
            label = ", ".join(f"{key.rpartition('.')[2]} {sweep_cell(row[key])}" for key in keys)
            curves[label] = [by_iteration[index] for index in sorted(by_iteration)]
    if not curves:
        return Markup("")
    note = "Training loss on the calibration split under the keep-ratios, before each iteration."
    return section("Loss curves", paragraph(note, "note"), drawing(loss_curves(curves)))


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{path}: not a readable parquet file ({error}); resume the sweep to write it anew"
        ) from None
