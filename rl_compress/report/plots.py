"""Plots of a run: what was found at which cost, how soon, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rl_compress.report.figure import (
    BLUE,
    EARLY_TO_LATE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    limit_scores,
    plot,
    star,
)
from rl_compress.report.formatting import COST_ROWS, cost_unit, prefix_for

_MAX_VECTOR_DOTS = 3000
"""More dots than this are drawn as an image, to keep the page small."""
_MAX_MARKED = 30
"""A front of more points is drawn as a line alone."""
_BREAK_BELOW = 0.2
"""The cost axis is broken if candidates spread over less of the way to the uncompressed model."""
_LOOKS = (
    (ORANGE, "-"),
    (BLUE, "-"),
    (GREY, "-"),
    (BLUE, "--"),
    (GREY, "--"),
    (BLUE, ":"),
    (GREY, ":"),
)
"""Colour and line of each algorithm; the search itself is the first."""
_MOST_UNITS = 300
"""More units than this are drawn thinned out, evenly."""


Point = tuple[float, float]
"""A model in the plane of cost and score."""


@plot("pareto", 3.9)
def pareto_plot(
    figure: Figure,
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
        figure: Drawn onto.
        evaluations: Variants in the order in which they were evaluated; at least one score finite.
        cost: Name of the cost, such as ``macs``.
        score: Name of the score.
        front: The Pareto front, in any order.
        best: The variant that was chosen.
        original: The uncompressed model.
        bound: The budget's upper bound on the cost.
    """
    points = [point for point in evaluations if math.isfinite(point[1])]
    costs, scores = (list(column) for column in zip(*points, strict=True))
    factor, letter = prefix_for(max([*costs, *(original or ())[:1]]))
    broken = original is not None and _is_strip(costs, original[0])
    if broken:
        axes, far = figure.subplots(1, 2, sharey=True, width_ratios=[7, 1])
        _break(axes, far)
    else:
        axes = far = figure.subplots()
    clipped = limit_scores(axes, [*scores, *(one[1] for one in (best, original) if one)])
    _dots(axes, np.array(costs) / factor, scores)
    if bound is not None:
        axes.axvline(bound / factor, color=MUTED, linestyle="--", linewidth=1, label="budget")
    line = np.array(_upper_edge(front)).reshape(-1, 2)
    axes.plot(
        line[:, 0] / factor,
        line[:, 1],
        "o-",
        color=ORANGE,
        linewidth=1.5,
        drawstyle="steps-post",
        markersize=4 if len(line) <= _MAX_MARKED else 0,
        label="Pareto front",
    )
    if best is not None:
        star(axes, best[0] / factor, best[1], "chosen")
    if original is not None:
        place, score_there = original[0] / factor, original[1]
        far.plot(place, score_there, "D", color=INK, markersize=7, label="uncompressed")
        if broken:
            for panel in (axes, far):
                panel.axhline(score_there, color=INK, linewidth=0.8, linestyle=":")
            far.set_xticks([place], [f"{place:.4g}"])
    unit = f"{letter}{cost_unit(cost)}"
    figure.supxlabel(COST_ROWS.get(cost, cost) + (f" [{unit}]" if unit else ""), fontsize=9)
    axes.set_ylabel(_below(score, clipped))
    entries = {
        label: handle
        for panel in dict.fromkeys((axes, far))
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=6)
    return f"{score} over {cost} of {len(points)} evaluated variants"


@plot("search", 3.2)
def search_curve(
    figure: Figure, scores: Sequence[float], *, score: str, original: float | None = None
) -> str:
    """Draw the score of every evaluation and the best so far.

    Args:
        figure: Drawn onto.
        scores: In the order of evaluation; at least one is finite.
        score: Name of the score.
        original: Score of the uncompressed model.
    """
    numbers = np.arange(1, len(scores) + 1)
    values = np.array(scores, dtype=np.float64)
    finite = np.isfinite(values)
    best_so_far = np.fmax.accumulate(np.where(finite, values, -np.inf))
    known = np.isfinite(best_so_far)
    axes = figure.subplots()
    clipped = limit_scores(axes, [*values[finite], *([] if original is None else [original])])
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
    star(axes, float(numbers[first]), float(best_so_far[first]), "best")
    if original is not None:
        axes.axhline(original, color=INK, linewidth=0.8, linestyle=":", label="uncompressed")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="evaluations", ylabel=_below(score, clipped))
    figure.legend(loc="outside upper left", ncols=6)
    return f"{score} of {len(scores)} evaluations, and the best so far"


@plot("baselines", 3.6)
def best_so_far_plot(
    drawn: Figure, found: Mapping[str, npt.NDArray[np.float64]], *, figure: str
) -> str:
    """Draw the best so far of several searches over the evaluations, and its spread.

    Args:
        drawn: Drawn onto.
        found: By algorithm, the search itself first, what each seed had found after each
            evaluation, shape ``(num_seeds, num_evaluations)``.
        figure: Name of what is maximised.
    """
    axes = drawn.subplots()
    for number, (algorithm, best) in enumerate(found.items()):
        color, line = _LOOKS[number % len(_LOOKS)]
        numbers, low, high = np.arange(1, best.shape[1] + 1), best.min(axis=0), best.max(axis=0)
        axes.step(
            numbers,
            best.mean(axis=0),
            where="post",
            color=color,
            linestyle=line,
            linewidth=2.0 if number == 0 else 1.4,
            # Of a single evaluation a line shows nothing.
            marker="o" if len(numbers) == 1 else None,
            label=algorithm,
            zorder=3 if number == 0 else 2,
        )
        if (high > low).any():
            axes.fill_between(numbers, low, high, step="post", color=color, alpha=0.15, linewidth=0)
    means = np.concatenate([best.mean(axis=0) for best in found.values()])
    top = max(best[:, -1].max() for best in found.values())
    limit_scores(axes, means[np.isfinite(means)].tolist(), top=top)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="evaluations", ylabel=f"best {figure} so far")
    drawn.legend(loc="outside upper left", ncols=6)
    return f"best {figure} so far of {', '.join(found)}"


@plot("verification", 3.4)
def verification_plot(
    figure: Figure,
    searched: Sequence[float],
    finetuned: Sequence[float],
    *,
    search_score: str,
    score: str,
) -> str:
    """Draw the score after fine-tuning over the score in the search.

    Args:
        figure: Drawn onto.
        searched: Scores in the search, the delivered variant's first.
        finetuned: Scores after fine-tuning, of the same variants; all are finite.
        search_score: Name of the score in the search.
        score: Name of the score after fine-tuning.
    """
    axes = figure.subplots()
    axes.scatter(searched[1:], finetuned[1:], color=BLUE, s=32, linewidths=0, label="verified")
    star(axes, searched[0], finetuned[0], "delivered")
    for rank, place in enumerate(zip(searched, finetuned, strict=True), start=1):
        axes.annotate(
            str(rank),
            place,
            xytext=(6, 5),
            textcoords="offset points",
            color=INK if rank == 1 else MUTED,
            fontsize=8,
        )
    axes.margins(0.06, 0.12)
    axes.set(xlabel=f"{search_score} in the search", ylabel=f"{score} after fine-tuning")
    figure.legend(loc="outside upper left", ncols=2)
    return f"{score} after fine-tuning of {len(searched)} variants"


@plot("contribution", 3.4)
def contribution_plot(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the contribution and the keep-ratio of every unit over the iterations.

    Args:
        figure: Drawn onto.
        rows: Of ``iteration``, ``unit``, ``contribution``, ``ratio`` and ``kept``, as a run's
            ``contribution.parquet`` has them.
    """
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(row)
    shown = list(by_unit.values())[:: max(1, len(by_unit) // _MOST_UNITS)]
    contributions, ratios = figure.subplots(1, 2)
    # Those kept are drawn over the others.
    for unit in sorted(shown, key=lambda unit: unit[0]["kept"]):
        color = BLUE if unit[0]["kept"] else GREY
        places = [row["iteration"] for row in unit]
        marker = "o" if len(places) == 1 else None
        for axes, name in ((contributions, "contribution"), (ratios, "ratio")):
            values = [row[name] for row in unit]
            axes.plot(places, values, color=color, linewidth=0.8, marker=marker, markersize=2)
    contributions.set_yscale("symlog", linthresh=1e-4)
    contributions.set(xlabel="iteration", ylabel="contribution")
    ratios.set(xlabel="iteration", ylabel="keep-ratio", ylim=(-0.03, 1.05))
    return f"contributions and keep-ratios of {len(by_unit)} units"


def _below(score: str, clipped: int) -> str:
    return score + (f" ({clipped} below the plot)" if clipped else "")


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
        axes.plot([], [], "o", color=color, markersize=4, label=label)


def _upper_edge(front: Sequence[Point]) -> list[Point]:
    """Return the points of a front that no cheaper one beats; it may trade other costs as well."""
    edge: list[Point] = []
    finite = (point for point in front if math.isfinite(point[1]))
    for point in sorted(finite, key=lambda point: (point[0], -point[1])):
        if not edge or point[1] > edge[-1][1]:
            edge.append(point)
    return edge
