"""Plots of a sweep: its keys against its figures, and how its trials came along."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rl_compress.report.figure import (
    BLUE,
    EARLY_TO_LATE,
    INK,
    MUTED,
    ORANGE,
    plot,
)
from rl_compress.report.sweep_keys import Column, Importances, Values

_MOST_LABELLED = 12
"""More curves than this are drawn without a legend, and more values than this in bins."""

_BINS = 6

_APART = 0.06
"""Labels of an axis that are nearer to each other, as fractions of it, would overlap."""


@plot("heat-map", 1.2)
def heat_map(drawn: Figure, across: Column, down: Column, figure: Column, *, score: str) -> str:
    """Draw a figure of trials over two of their keys; values that are many are put into bins.

    Args:
        drawn: Drawn onto.
        across: Key along the horizontal axis.
        down: Key along the vertical axis.
        figure: Higher is better; a cell shows the best of its trials.
        score: Name of the score that it is of.
    """
    (columns, at_column), (lines, at_line) = _cells(across), _cells(down)
    values = np.full((len(lines), len(columns)), np.nan)
    for line, column, value in zip(at_line, at_column, figure.values, strict=True):
        values[line, column] = np.nanmax([values[line, column], value])
    drawn.set_figheight(1.2 + 0.5 * len(lines))
    axes = drawn.subplots()
    axes.grid(visible=False)
    image = axes.imshow(values, aspect="auto", cmap=EARLY_TO_LATE)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(lines)), lines)
    axes.set(xlabel=across.key, ylabel=down.key)
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, line, f"{value:.4g}", ha="center", va="center", color=INK)
    drawn.colorbar(image, ax=axes, label=score)
    return f"{figure.key} over {across.key} and {down.key}"


@plot("parallel", 3.8)
def parallel_coordinates(figure: Figure, columns: Sequence[Column]) -> str:
    """Draw each trial as a line through its values.

    Args:
        figure: Drawn onto.
        columns: Keys, then figures; lines are coloured by the last.
    """
    heights = np.stack([_heights(column) for column in columns], axis=1)
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), [_two_lines(column.key) for column in columns])
    axes.tick_params(axis="x", length=0, pad=14)
    lines = [np.column_stack([np.arange(len(columns)), row]) for row in heights]
    axes.add_collection(
        LineCollection(lines, array=heights[:, -1], cmap=EARLY_TO_LATE, linewidths=1.3)
    )
    for place, column in enumerate(columns):
        axes.axvline(place, color=MUTED, linewidth=1.0)
        for height, text in _marks(column):
            axes.annotate(
                text,
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=INK,
            )
    axes.set(xlim=(-0.1, len(columns) - 0.6), ylim=(-0.06, 1.06))
    return f"values and figures of {len(heights)} trials"


@plot("importance", 0.9)
def importance_bars(drawn: Figure, keys: Sequence[str], found: Mapping[str, Importances]) -> str:
    """Draw the importance of each of the varied keys for each figure."""
    drawn.set_figheight(0.9 + 0.3 * len(keys) * len(found))
    axes = drawn.subplots()
    axes.grid(visible=False, axis="y")
    height = 0.8 / len(found)
    for number, (figure, one) in enumerate(found.items()):
        axes.barh(
            np.arange(len(keys)) + number * height,
            one.mean,
            height=0.9 * height,
            xerr=one.deviation,
            color=(BLUE, ORANGE)[number % 2],
            error_kw={"ecolor": MUTED, "elinewidth": 1.0},
            label=figure,
        )
    axes.set_yticks(np.arange(len(keys)) + 0.4 - height / 2, keys)
    axes.invert_yaxis()
    axes.set_xlabel("loss of R² when the key's values are shuffled")
    if len(found) > 1:
        axes.legend()
    return f"importance of {len(keys)} keys"


@plot("volume", 3.0)
def volume_curve(figure: Figure, course: Sequence[tuple[int, float]]) -> str:
    """Draw how the hypervolume grew, over the variants measured by all trials so far."""
    numbers, volumes = zip(*course, strict=True)
    axes = figure.subplots()
    axes.step(numbers, volumes, where="post", color=ORANGE, linewidth=1.8)
    axes.set(xlabel="variants measured by all trials, in the order of time", ylabel="hypervolume")
    return f"hypervolume over {numbers[-1]} variants measured"


@plot("loss-curves", 3.6)
def loss_curves(figure: Figure, curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the loss of several trials, by trial, from the first iteration on."""
    axes = figure.subplots()
    for number, (label, losses) in enumerate(curves.items()):
        color = EARLY_TO_LATE(number / max(len(curves) - 1, 1))
        axes.plot(range(len(losses)), losses, color=color, linewidth=1.3, label=label)
    if min(min(losses) for losses in curves.values()) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel="iteration", ylabel="loss")
    if len(curves) <= _MOST_LABELLED:
        axes.legend(fontsize=7)
    return f"loss of {len(curves)} trials over the iterations"


def _cells(column: Column) -> tuple[list[str], list[int]]:
    """Return the labels of an axis' cells, and the cell of each trial."""
    values = column.positions
    distinct = np.unique(values)
    if len(distinct) <= _MOST_LABELLED:
        return [_label(column, value) for value in distinct], np.searchsorted(
            distinct, values
        ).tolist()
    edges = np.linspace(distinct[0], distinct[-1], _BINS + 1)
    labels = [
        f"{_label(column, low)} to {_label(column, high)}"
        for low, high in itertools.pairwise(edges)
    ]
    return labels, np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1).tolist()


def _label(column: Column, position: float) -> str:
    if column.words:
        return column.words[int(position)]
    return f"{10**position if column.logarithmic else position:.3g}"


def _heights(column: Column) -> Values:
    """Return where on its axis each trial is, from 0 to 1."""
    values = column.positions
    extent = np.ptp(values)
    return (values - values.min()) / extent if extent > 0 else np.full_like(values, 0.5)


def _marks(column: Column) -> list[tuple[float, str]]:
    """Return the heights of an axis that are labelled: its ends, and values far from others."""
    heights = _heights(column)
    places = dict(sorted(zip(heights.tolist(), column.positions.tolist(), strict=True)))
    marked = [height for height in (0.0, 1.0, 0.5) if height in places]
    for height in places:
        if all(abs(height - other) >= _APART for other in marked):
            marked.append(height)
    return [(height, _label(column, places[height])) for height in marked]


def _two_lines(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f"{name}\n{section}" if section else name
