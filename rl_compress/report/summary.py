"""The comparison of the two models, for the console and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def comparison_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Compare the uncompressed and the delivered model.

    Args:
        manifest: Content of ``best/manifest.json``; figures that it lacks are left out.

    Returns:
        Rows of name, uncompressed, delivered, and ratio or change, ready to be shown.
    """
    rows = [
        (
            COST_ROWS.get(cost, cost),
            format_cost(cost, change["original"]),
            format_cost(cost, change["delivered"]),
            format_fraction(ratio(change)),
        )
        for cost, change in bounded_first(manifest)
    ]
    if scores := manifest.get("scores"):
        name, search = scores["name"], scores["search"]
        for split, change, what in (
            ("search split, not fine-tuned", search, "before_finetuning"),
            ("search split", search, "delivered"),
            ("test split", scores.get("test"), "delivered"),
        ):
            if change:
                before, after = change["original"], change[what]
                title, gain = name[:1].upper() + name[1:], format_score_change(name, before, after)
                shown = format_score(name, before), format_score(name, after)
                rows.append((f"{title}, {split}", *shown, gain))
    if latency := manifest.get("latency_ms"):
        runtime = f" in {latency['runtime']}" if latency.get("runtime") else ""
        name = f"Latency{runtime}, batch of {latency['batch_size']}"
        rows.append((name, *_latencies(latency), speedup(latency)))
        if predicted := latency.get("predicted"):
            error = predicted["error_percent"]
            off = "other hardware" if error is None else f"{error:.1f} % off"
            rows.append(("Latency, as predicted", *_latencies(predicted), off))
    for name, file in (manifest.get("deployed") or {}).items():
        sizes = {"original": file["original_bytes"], "delivered": file["delivered_bytes"]}
        shown = (format_cost("size_bytes", size) for size in sizes.values())
        rows.append((f"Size of the file, {name}", *shown, format_fraction(ratio(sizes))))
        times = file["original_ms"], file["delivered_ms"]
        medians = [times[0][1], times[1][1]]
        rows.append(
            (
                f"Latency of {name} in {file['runtime']}, batch of {file['batch_size']}",
                *map(format_latency, medians),
                format_speedup(*medians, times),
            )
        )
        if scores := manifest.get("scores"):
            score, before = scores["name"], (scores.get("test") or scores["search"])["original"]
            shown = (format_score(score, value) for value in (before, file["test_score"]))
            gain = format_score_change(score, before, file["test_score"])
            rows.append((f"{score[:1].upper()}{score[1:]} of {name}, test split", *shown, gain))
    return rows


def bounded_first(manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """Return the costs of both models by name, those that the budget bounded first."""
    costs = manifest.get("costs") or {}
    bounded = [name for name in manifest.get("budget") or () if name in costs]
    return [(name, costs[name]) for name in dict.fromkeys([*bounded, *costs])]


def speedup(latency: Mapping[str, Any]) -> str:
    """Say how much faster the delivered model is, where that is more than noise."""
    quartiles = (latency.get("original_quartiles"), latency.get("delivered_quartiles"))
    return format_speedup(latency["original"], latency["delivered"], quartiles)


def cautions(manifest: Mapping[str, Any]) -> list[str]:
    """Say what a user should know of the files that were run, a line each."""
    lines = []
    for name, file in (manifest.get("deployed") or {}).items():
        if name == "onnx-int8" and not file["multiplies_bytes"]:
            lines.append(
                f"{name}: this processor has no instructions for products of bytes (VNNI); with "
                f"them, 8 bits are faster than measured here"
            )
    if check := manifest.get("onnx_int8"):
        for layer, reason in check["float_layers"].items():
            lines.append(f"onnx-int8: {layer} computes with floats, for {reason}")
    return lines


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


def _latencies(change: Mapping[str, Any]) -> tuple[str, str]:
    return format_latency(change["original"]), format_latency(change["delivered"])
