"""Plots with one row for each group: what was pruned, and what pruning costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rl_compress.report.figure import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    color_bar,
    percent_axis,
    plot,
    robust_floor,
)
from rl_compress.report.formatting import shorten_names

PRUNING = "pruning_ratio"
_LINE = 0.21
"""Height of one row, in inches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBar:
    """One group, in the plot of the chosen policy."""

    name: str
    pruning_ratio: float | None
    """Fraction removed; None: the group cannot be pruned."""
    macs_before: float | None = None
    """MACs of all layers that the group narrows, as a fraction of the uncompressed model's."""
    macs_after: float | None = None
    """The same in the chosen variant, as a fraction of the uncompressed model's."""
    weight_bits: int | None = None
    """None: its weights are not quantized."""
    activation_bits: int | None = None
    """None: its inputs are not quantized."""


@plot("groups", 1.6)
def policy_bars(figure: Figure, groups: Sequence[GroupBar]) -> str:
    """Draw a compression policy group by group, with shares of MACs and bits where there are any.

    Args:
        figure: Drawn onto.
        groups: In forward order, at least one.
    """
    figure.set_figheight(_height(len(groups)))
    with_macs = any(group.macs_before is not None for group in groups)
    with_bits = any(group.weight_bits or group.activation_bits for group in groups)
    draw = [_draw_ratios] + [_draw_macs] * with_macs + [_draw_bits] * with_bits
    panels = figure.subplots(1, len(draw), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.06})
    for number, (drawn, axes) in reversed(list(enumerate(zip(draw, panels[0], strict=True)))):
        handles = drawn(axes, groups, range(len(groups)))
        if number:
            axes.tick_params(axis="y", labelleft=False, length=0)
            axes.grid(visible=False, axis="y")
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(handles),
            borderaxespad=0.2,
            borderpad=0.2,
            labelcolor=INK,
        )
    _name_rows(panels[0][0], [group.name for group in groups])
    for label, group in zip(panels[0][0].get_yticklabels(), groups, strict=True):
        if group.pruning_ratio is None:
            label.set_color(MUTED)
    what = "pruning ratio and bits" if with_bits else "pruning ratio"
    return f"{what} of each of {len(groups)} groups"


@plot("sensitivity", 1.6)
def sensitivity_map(
    figure: Figure,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    score: str,
    chosen: Mapping[str, float] | None = None,
    decides: str = PRUNING,
) -> str:
    """Draw the score against the pruning ratio, or bits, of each group alone, as a map of colours.

    Args:
        figure: Drawn onto.
        curves: For each group, in forward order, its ``(pruning ratio or bits, score)`` pairs;
            there is at least one finite score.
        score: Name of the score.
        chosen: Pruning ratios, or bits, of the chosen policy, to be marked.
        decides: What varies: ``pruning_ratio``, ``weight_bits`` or ``activation_bits``.
    """
    prunes, varied = decides == PRUNING, decides.replace("_", " ")
    scores = [value for curve in curves.values() for _, value in curve if math.isfinite(value)]
    floor = robust_floor(scores)
    figure.set_figheight(_height(len(curves)))
    axes = figure.subplots()
    _name_rows(axes, list(curves))
    corners, colors = [], []
    for row, curve in enumerate(curves.values()):
        for left, right, value in _cells(curve, 1.0 if prunes else math.inf):
            low, high = row - 0.45, row + 0.45
            corners.append([(left, low), (right, low), (right, high), (left, high)])
            colors.append(value if math.isfinite(value) else math.nan)
    cells = PolyCollection(corners, array=np.array(colors), cmap="cividis", edgecolors="none")
    cells.set_clim(floor, max(scores))
    axes.add_collection(cells, autolim=False)
    chosen = chosen or {}
    marked = [(chosen[name], row) for row, name in enumerate(curves) if name in chosen]
    if marked:
        axes.scatter(
            [level for level, _ in marked],
            [row for _, row in marked],
            marker="D",
            s=24,
            color=ORANGE,
            edgecolors=PAPER,
            linewidths=0.8,
            label="chosen",
            zorder=3,
        )
        figure.legend(loc="outside upper left")
    axes.set_xlim(
        0.0 if prunes else min(corner[0][0] for corner in corners),
        max(corner[2][0] for corner in corners),
    )
    axes.grid(visible=False)
    if prunes:
        percent_axis(axes)
    else:
        figure.set_label(f"sensitivity-{decides}")
    axes.set_xlabel(f"{varied} of this group alone")
    color_bar(figure, cells, axes, score, floor > min(scores))
    what = "pruning" if prunes else f"lowering the {varied} of"
    return f"{score} after {what} one of {len(curves)} groups"


def _height(rows: int) -> float:
    return max(1.6, 0.9 + _LINE * rows)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), shorten_names(names), fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    # The first group on top.
    axes.set_ylim(len(names) - 0.4, -0.6)


def _draw_ratios(axes: Axes, groups: Sequence[GroupBar], rows: Sequence[int]) -> list[Patch]:
    handles = {"removed": Patch(color=BLUE, label="removed")}
    for row, group in zip(rows, groups, strict=True):
        if (ratio := group.pruning_ratio) is None:
            hatched: dict[str, Any] = {
                "facecolor": "none",
                "edgecolor": GREY,
                "hatch": "////",
                "lw": 0,
            }
            axes.barh(row, 1.0, height=0.72, **hatched)
            handles["hatched"] = Patch(label="not pruned", **hatched)
        else:
            axes.barh(row, ratio, height=0.72, color=BLUE)
            axes.text(ratio + 0.012, row, f"{100 * ratio:.0f} %", va="center", fontsize=7.5)
    axes.set_xlim(0.0, 1.0)
    percent_axis(axes)
    axes.set_xlabel("pruning ratio")
    return list(handles.values())


def _draw_macs(axes: Axes, groups: Sequence[GroupBar], rows: Sequence[int]) -> list[Patch]:
    after = [group.macs_after or 0.0 for group in groups]
    axes.barh(rows, [g.macs_before or 0.0 for g in groups], height=0.72, color=GREY, alpha=0.55)
    handles = [Patch(color=GREY, alpha=0.55, label="uncompressed")]
    if any(after):
        axes.barh(rows, after, height=0.36, color=BLUE)
        handles.append(Patch(color=BLUE, label="chosen"))
    percent_axis(axes)
    axes.set_xlabel("MACs of the layers narrowed")
    return handles


def _draw_bits(axes: Axes, groups: Sequence[GroupBar], rows: Sequence[int]) -> list[Patch]:
    handles = []
    for label, color, marker, bits in (
        ("weights", BLUE, "s", [group.weight_bits for group in groups]),
        ("activations", ORANGE, "D", [group.activation_bits for group in groups]),
    ):
        found = [(value, row) for value, row in zip(bits, rows, strict=True) if value is not None]
        if found:
            values, at = zip(*found, strict=True)
            axes.scatter(values, at, s=22, marker=marker, color=color, alpha=0.8)
            handles.append(Patch(color=color, label=label))
    axes.set_xlim(left=0.0)
    axes.set_xlabel("bits")
    return handles


def _cells(
    curve: Sequence[tuple[float, float]], largest: float
) -> list[tuple[float, float, float]]:
    """Return ``(left, right, score)`` of the cells of one row, which meet half-way."""
    ordered = sorted(curve)
    ratios = [ratio for ratio, _ in ordered]
    middles = [(a + b) / 2 for a, b in pairwise(ratios)]
    # The outermost cells of bits reach half a bit beyond.
    last_half = min(ratios[-1] - middles[-1], 0.5) if middles else 0.05
    first_half = min(middles[0] - ratios[0], 0.5) if middles else last_half
    first_left = 0.0 if ratios[0] == 0.0 else max(0.0, ratios[0] - first_half)
    edges = [first_left, *middles, min(largest, ratios[-1] + last_half)]
    return [
        (left, right, score)
        for (left, right), (_, score) in zip(pairwise(edges), ordered, strict=True)
    ]
