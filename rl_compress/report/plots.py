"""Plots of the search: what was found at which cost, and how soon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from rl_compress.report.figure import (
    BLUE,
    EARLY_TO_LATE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    new_figure,
    robust_floor,
    style,
    to_svg,
)
from rl_compress.report.formatting import COST_ROWS, cost_unit, prefix_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes

_MAX_VECTOR_DOTS = 3000
"""More dots than this are drawn as an image, to keep the page small."""
_MAX_MARKED = 30
"""A front of more points is drawn as a line alone."""
_BREAK_BELOW = 0.2
"""The cost axis is broken if candidates spread over less of the way to the uncompressed model."""


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the plane of cost and score."""

    cost: float
    score: float


def pareto_plot(
    evaluations: Sequence[Point],
    *,
    cost: str,
    score: str,
    front: Sequence[Point] = (),
    best: Point | None = None,
    original: Point | None = None,
    bound: float | None = None,
) -> str:
    """Draw score over cost.

    Args:
        evaluations: Variants in the order in which they were evaluated; at least one score finite.
        cost: Name of the cost, such as ``macs``.
        score: Name of the score.
        front: The Pareto front, in any order.
        best: The variant that was chosen.
        original: The uncompressed model.
        bound: The budget's upper bound on the cost.

    Returns:
        An ``<svg>`` element.
    """
    points = [point for point in evaluations if math.isfinite(point.score)]
    costs = [point.cost for point in points]
    marked = [point.score for point in (best, original) if point is not None]
    factor, letter = prefix_for(max([*costs, *([original.cost] if original else [])]))
    with style():
        figure = new_figure(3.9)
        broken = original is not None and _is_strip(costs, original.cost)
        if broken:
            axes, far = figure.subplots(1, 2, sharey=True, width_ratios=[7, 1])
            _break(axes, far)
        else:
            axes = far = figure.subplots()
        clipped = _set_scores(axes, [*(point.score for point in points), *marked])
        _dots(axes, [value / factor for value in costs], [point.score for point in points])
        if bound is not None:
            axes.axvline(bound / factor, color=MUTED, linestyle="--", linewidth=1, label="budget")
        line = _upper_edge(front)
        axes.plot(
            [point.cost / factor for point in line],
            [point.score for point in line],
            color=ORANGE,
            linewidth=1.5,
            drawstyle="steps-post",
            marker="o",
            markersize=4 if len(line) <= _MAX_MARKED else 0,
            label="Pareto front",
        )
        if best is not None:
            _star(axes, best.cost / factor, best.score, "chosen")
        if original is not None:
            far.plot(
                original.cost / factor,
                original.score,
                color=INK,
                marker="D",
                markersize=7,
                linestyle="none",
                label="uncompressed",
            )
            if broken:
                axes.axhline(original.score, color=INK, linewidth=0.8, linestyle=":")
                far.axhline(original.score, color=INK, linewidth=0.8, linestyle=":")
                far.set_xticks([original.cost / factor], [f"{original.cost / factor:.4g}"])
        unit = f"{letter}{cost_unit(cost)}"
        figure.supxlabel(COST_ROWS.get(cost, cost) + (f" [{unit}]" if unit else ""), fontsize=9)
        axes.set_ylabel(score + (f" ({clipped} below the plot)" if clipped else ""))
        _legend(axes, far)
        return to_svg(figure, "pareto", f"{score} over {cost} of {len(points)} evaluated variants")


def search_curve(scores: Sequence[float], *, score: str, original: float | None = None) -> str:
    """Draw the score of every evaluation and the best so far.

    Args:
        scores: In the order of evaluation; at least one is finite.
        score: Name of the score.
        original: Score of the uncompressed model.

    Returns:
        An ``<svg>`` element.
    """
    numbers = np.arange(1, len(scores) + 1)
    values = np.array(scores, dtype=np.float64)
    finite = np.isfinite(values)
    best_so_far = np.fmax.accumulate(np.where(finite, values, -np.inf))
    known = np.isfinite(best_so_far)
    with style():
        figure = new_figure(3.2)
        axes = figure.subplots()
        shown = [*values[finite], *([] if original is None else [original])]
        clipped = _set_scores(axes, shown)
        _dots(axes, numbers[finite], values[finite])
        axes.step(
            numbers[known],
            best_so_far[known],
            where="post",
            color=ORANGE,
            linewidth=1.8,
            label="best so far",
        )
        first = int(np.argmax(best_so_far))
        _star(axes, float(numbers[first]), float(best_so_far[first]), "best")
        if original is not None:
            axes.axhline(original, color=INK, linewidth=0.8, linestyle=":", label="uncompressed")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("evaluations")
        axes.set_ylabel(score + (f" ({clipped} below the plot)" if clipped else ""))
        _legend(axes)
        return to_svg(
            figure, "search", f"{score} of {len(scores)} evaluations, and the best so far"
        )


def _is_strip(costs: Sequence[float], original: float) -> bool:
    """Say whether the candidates lie so close together that the full axis would hide them."""
    spread, gap = max(costs) - min(costs), original - max(costs)
    return gap > 0 and spread < _BREAK_BELOW * (original - min(costs))


def _break(axes: Axes, far: Axes) -> None:
    far.spines.left.set_visible(False)
    far.tick_params(left=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for panel, edge in ((axes, 1), (far, 0)):
        panel.plot(
            edge,
            0,
            transform=panel.transAxes,
            marker=[(-0.6, -1), (0.6, 1)],
            markersize=9,
            linestyle="none",
            color=MUTED,
            clip_on=False,
        )


def _set_scores(axes: Axes, scores: Sequence[float]) -> int:
    """Limit the score axis and return how many scores lie below it."""
    floor, top = robust_floor(scores), max(scores)
    margin = 0.06 * ((top - floor) or abs(top) or 1.0)
    axes.set_ylim(floor - margin, top + margin)
    return sum(score < floor - margin for score in scores)


def _dots(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
    count = np.size(x)
    axes.scatter(
        x,
        y,
        c=np.linspace(0.0, 1.0, count),
        cmap=EARLY_TO_LATE,
        s=16,
        alpha=0.85,
        linewidths=0,
        rasterized=count > _MAX_VECTOR_DOTS,
    )
    # Two entries explain the colours without a colour bar.
    for label, color in (("evaluated early", GREY), ("evaluated late", BLUE)):
        axes.plot([], [], color=color, marker="o", markersize=4, linestyle="none", label=label)


def _star(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot(
        x,
        y,
        color=ORANGE,
        marker="*",
        markersize=15,
        markeredgecolor=PAPER,
        linestyle="none",
        label=label,
        zorder=5,
    )


def _upper_edge(front: Sequence[Point]) -> list[Point]:
    """Return the points of a front that no cheaper one beats; it may trade other costs as well."""
    edge: list[Point] = []
    finite = (point for point in front if math.isfinite(point.score))
    for point in sorted(finite, key=lambda point: (point.cost, -point.score)):
        if not edge or point.score > edge[-1].score:
            edge.append(point)
    return edge


def _legend(*panels: Axes) -> None:
    entries = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure = panels[0].figure
    figure.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=6)
