"""Plots of a sweep: two keys against each other, and loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl_compress.reporting.figure import EARLY_TO_LATE, INK, new_figure, style, to_svg

_MOST_LABELLED = 12
"""More curves than this are drawn without a legend."""


def heat_map(
    rows: Sequence[Mapping[str, Any]], across: str, down: str, figure: str, *, score: str
) -> str:
    """Draw a figure of trials over two of their keys.

    Args:
        rows: Trials.
        across: Key along the horizontal axis.
        down: Key along the vertical axis.
        figure: Name of the figure; higher is better.
        score: Name of the score that it is of.

    Returns:
        An ``<svg>`` element.
    """
    columns = sorted({row[across] for row in rows})
    lines = sorted({row[down] for row in rows})
    values = np.full((len(lines), len(columns)), np.nan)
    for row in rows:
        place = lines.index(row[down]), columns.index(row[across])
        values[place] = np.nanmax([values[place], row[figure]])
    with style():
        drawn = new_figure(1.2 + 0.5 * len(lines))
        axes = drawn.subplots()
        axes.grid(visible=False)
        image = axes.imshow(values, aspect="auto", cmap=EARLY_TO_LATE)
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(lines)), [f"{value:g}" for value in lines])
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        for (line, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(column, line, f"{value:.4g}", ha="center", va="center", color=INK)
        drawn.colorbar(image, ax=axes, label=score)
        return to_svg(drawn, "heat-map", f"{figure} over {across} and {down}")


def loss_curves(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the loss of several trials over the iterations.

    Args:
        curves: By trial the losses, from the first iteration on.

    Returns:
        An ``<svg>`` element.
    """
    with style():
        drawn = new_figure(3.6)
        axes = drawn.subplots()
        for number, (label, losses) in enumerate(curves.items()):
            color = EARLY_TO_LATE(number / max(len(curves) - 1, 1))
            axes.plot(range(len(losses)), losses, color=color, linewidth=1.3, label=label)
        if min(min(losses) for losses in curves.values()) > 0:
            axes.set_yscale("log")
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss")
        if len(curves) <= _MOST_LABELLED:
            axes.legend(fontsize=7)
        return to_svg(drawn, "loss-curves", f"loss of {len(curves)} trials over the iterations")
