"""Results on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rl_compress.report.formatting import format_cell, format_cost
from rl_compress.report.summary import cautions, comparison_table
from rl_compress.targets.soundness import Soundness

_console = Console()

_SWEEP_COLUMNS = ("best_score", "test_after", "params_share")
"""Figures of trials that fit on a console; the report has more."""


def print_check(name: str, space: Mapping[str, Any], soundness: Soundness | None = None) -> None:
    """Print a target's groups, costs and budget, as ``space.json`` holds them, and its scores."""
    table = Table(title=f"{name}: groups in forward order", title_justify="left")
    aspects = [
        aspect
        for aspect in ("weight_bits", "activation_bits")
        if any(group[aspect] for group in space["groups"])
    ]
    bits = (aspect.replace("_", " ") for aspect in aspects)
    for column in ("group", "kind", "units", "widths", *bits, "MACs", "params", "pruned"):
        table.add_column(column, overflow="fold")
    for group in space["groups"]:
        widths = group["widths"]
        table.add_row(
            group["name"],
            group["kind"],
            str(group["units"]),
            f"{widths[0]} to {widths[-1]}" if widths else "–",
            *(_choices(group[aspect]) for aspect in aspects),
            "–" if group["macs"] is None else format_cost("macs", group["macs"]),
            "–" if group["params"] is None else format_cost("params", group["params"]),
            "yes" if group["prunable"] else "no",
        )
    _console.print(table)
    for group in space["groups"]:
        if not group["prunable"]:
            _say(f"{group['name']} is not pruned: {group['reason']}")
    for note in space["notes"]:
        _say(f"note: {note}")
    costs = Table(title="costs", title_justify="left")
    for column in ("cost", "target", "smallest feasible", "budget"):
        costs.add_column(column, justify="left" if column == "cost" else "right")
    for cost, value in space["costs"].items():
        bound = space["budget"].get(cost)
        costs.add_row(
            cost,
            format_cost(cost, value),
            format_cost(cost, space["smallest_costs"][cost]),
            "–" if bound is None else f"{format_cost(cost, bound)} ({bound / value:.1%})",
        )
    _console.print(costs)
    if soundness is not None:
        _print_scores(soundness)
    _console.print("the budget is feasible")


def _print_scores(soundness: Soundness) -> None:
    """Print how the uncompressed model scores; the test split's score is for the end of a run."""
    scores = Table(title=f"{soundness.score_name} of the target", title_justify="left")
    for column in ("split", soundness.score_name, "samples"):
        scores.add_column(column, justify="left" if column == "split" else "right")
    for row in soundness.splits:
        unknown = "usable" if row.samples else "–"
        score = unknown if row.score is None else f"{row.score:.4f}"
        scores.add_row(row.split, score, f"{row.samples:,d}")
    _console.print(scores)
    for warning in soundness.warnings:
        _say(f"warning: {warning}")


def _say(line: str) -> None:
    """Print a line that holds names, in which nothing is markup."""
    _console.print(line, highlight=False, markup=False, soft_wrap=True)


def _choices(bits: Sequence[int]) -> str:
    """Write bits to choose from, ``2-6, 8``, or the one that is given."""
    if not bits:
        return "–"
    runs: list[list[int]] = []
    for number in bits:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def print_result(manifest: Mapping[str, Any], directory: Path, location: str) -> None:
    """Print the comparison of the uncompressed and the delivered model.

    Args:
        manifest: What was delivered.
        directory: Where it is on this machine.
        location: Where it is kept: the same, or a URI.
    """
    _console.print(comparison_table(manifest))
    if predicted := (manifest["latency_ms"] or {}).get("predicted"):
        error = predicted["median_error_percent"]
        _say(f"latency table of {predicted['device']}: median error {error:.1f} %")
    for line in cautions(manifest):
        _say(line)
    report = directory / "report.html"
    _console.print(f"written to {location}", highlight=False, soft_wrap=True)
    if report.exists():
        _console.print(f"report: {report}", highlight=False, soft_wrap=True)


def print_sensitivity(curves: Any, directory: Path) -> None:
    """Print the score after compressing each group alone, in one way."""
    table = Table(
        title=f"score with one group compressed (uncompressed {curves.original_score:.4f})",
        title_justify="left",
    )
    table.add_column("group", overflow="fold")
    table.add_column("by", overflow="fold")
    table.add_column("score", overflow="fold")
    for name, decides, amounts, scores in zip(
        curves.groups, curves.decides, curves.amounts, curves.scores, strict=True
    ):
        prunes = decides == "pruning_ratio"
        points = (
            f"{f'{1 - amount / amounts[0]:.2f}' if prunes else amount}: {score:.4f}"
            for amount, score in zip(amounts[1:], scores[1:], strict=True)
        )
        table.add_row(name, decides.replace("_", " "), "   ".join(points))
    _console.print(table)
    _console.print(f"written to {directory}", highlight=False, soft_wrap=True)


def print_sweep(
    rows: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    keys: Sequence[str],
    directory: Path,
    *,
    statuses: Mapping[str, int],
    measured: int,
    cache_hits: int,
) -> None:
    """Print a row for each trial of a sweep, and in one line which was best and what it took.

    Args:
        rows: Of all trials.
        best: One of them.
        keys: What was varied.
        directory: The sweep's.
        statuses: Number of trials by status.
        measured: Variants that were measured.
        cache_hits: Evaluations that were answered with what another trial had measured.
    """
    table = Table(title=f"{len(rows)} trials", title_justify="left")
    figures = [name for name in _SWEEP_COLUMNS if any(name in row for row in rows)]
    for column in ("trial", *(key.rpartition(".")[2] for key in keys), "status", *figures):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [format_cell(row.get(name)) for name in ("trial", *keys, "status", *figures)]
        table.add_row(*cells, style="bold" if row["trial"] == best["trial"] else None)
    _console.print(table)
    for row in rows:
        if row["error"]:
            _say(f"{row['trial']}: {row['error']}")
    _say(f"report: {directory / 'report.html'}")
    chosen = ", ".join(f"{key}={format_cell(best[key])}" for key in keys)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    _say(
        f"best: {best['trial']} ({chosen}), score {format_cell(best['best_score'])}; trials: "
        f"{counts}; {measured} variants measured, {cache_hits} evaluations answered from the "
        f"sweep's cache"
    )


def print_evaluation(found: Mapping[str, Any]) -> None:
    """Print the score and the costs of one policy."""
    table = Table(title=f"policy {found['policy_id']}", title_justify="left")
    for column in ("", "uncompressed", "variant", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (original, variant) in found["scores"].items():
        table.add_row(name, f"{original:.4f}", f"{variant:.4f}", "")
    for cost, (original, variant) in found["costs"].items():
        table.add_row(
            cost,
            format_cost(cost, original),
            format_cost(cost, variant),
            f"{variant / original:.1%}",
        )
    _console.print(table)
