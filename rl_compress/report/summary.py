"""The comparison of the two models, for the console and for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rl_compress.report.formatting import (
    COST_LABELS,
    COST_ROWS,
    format_cost,
    format_fraction,
    format_latency,
    format_named_score,
    format_score,
    format_score_change,
    format_speedup,
)
from rl_compress.space.budget import LATENCY

if TYPE_CHECKING:
    from collections.abc import Mapping


def comparison_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Compare the uncompressed and the delivered model.

    Args:
        manifest: Content of ``best/manifest.json``; figures that it lacks are left out.

    Returns:
        Rows of name, uncompressed, delivered, and ratio or change, ready to be shown.
    """
    rows = []
    for cost, change in (manifest.get("costs") or {}).items():
        before, after = change["original"], change["delivered"]
        rows.append(
            (
                COST_ROWS.get(cost, cost),
                format_cost(cost, before),
                format_cost(cost, after),
                format_fraction(ratio(change)),
            )
        )
    return [*rows, *_score_rows(manifest.get("scores")), *_latency_rows(manifest)]


def comparison_table(manifest: Mapping[str, Any]) -> Table:
    """Return :func:`comparison_rows` as a table for the console."""
    table = Table(box=None, pad_edge=False)
    for column, title in enumerate(("", "uncompressed", "delivered", "change")):
        table.add_column(title, justify="right" if column else "left", no_wrap=column > 0)
    for row in comparison_rows(manifest):
        table.add_row(*(Text(cell) for cell in row))
    return table


def headline(manifest: Mapping[str, Any]) -> str | None:
    """Say in one sentence what was achieved, or return None where the figures are missing.

    The first budgeted cost is set against the score on the test split, or on the search split
    where the test split has not been scored.
    """
    costs = dict(manifest.get("costs") or {})
    if latency := manifest.get("latency_ms"):
        costs[LATENCY] = latency
    cost = next((name for name in manifest.get("budget") or () if name in costs), None)
    cost = cost or next(iter(costs), None)
    scores = manifest.get("scores")
    if cost is None or not scores:
        return None
    name, on_split = scores["name"], scores.get("test") or scores["search"]
    fraction = ratio(costs[cost])
    share = "n/a" if fraction is None else f"{100 * fraction:.3g} %"
    return (
        f"{share} of the {COST_LABELS.get(cost, cost)} "
        f"at {format_named_score(name, on_split['delivered'])} "
        f"(uncompressed {format_score(name, on_split['original'])})"
    )


def ratio(change: Mapping[str, float]) -> float | None:
    """Return the delivered fraction of a cost, or None of a cost that was zero."""
    return change["delivered"] / change["original"] if change["original"] else None


def _score_rows(scores: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    if not scores:
        return []
    name, search, test = scores["name"], scores["search"], scores.get("test")
    title = name[:1].upper() + name[1:]
    entries = [
        (f"{title}, search split, not fine-tuned", search["original"], search["before_finetuning"]),
        (f"{title}, search split", search["original"], search["delivered"]),
    ]
    if test:
        entries.append((f"{title}, test split", test["original"], test["delivered"]))
    return [
        (
            label,
            format_score(name, before),
            format_score(name, after),
            format_score_change(name, before, after),
        )
        for label, before, after in entries
    ]


def _latency_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    latency = manifest.get("latency_ms")
    if not latency:
        return []
    before, after = latency["original"], latency["delivered"]
    rows = [
        (
            f"Latency, batch of {latency['batch_size']}",
            format_latency(before),
            format_latency(after),
            format_speedup(before, after),
        )
    ]
    if predicted := latency.get("predicted"):
        error = predicted["error_percent"]
        rows.append(
            (
                "Latency, as predicted",
                format_latency(predicted["original"]),
                format_latency(predicted["delivered"]),
                "other hardware" if error is None else f"{error:.1f} % off",
            )
        )
    return rows
