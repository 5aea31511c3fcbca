"""Plots of several searches together, and of scores before and after fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from rl_compress.report.figure import (
    BLUE,
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class Band:
    """A line with the spread around it; all of shape ``(num_evaluations,)``."""

    label: str
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def best_so_far_plot(bands: Sequence[Band], *, figure: str) -> str:
    """Draw the best so far of several searches over the evaluations.

    Args:
        bands: The search itself first.
        figure: Name of what is maximised.

    Returns:
        An ``<svg>`` element.
    """
    with style():
        drawn = new_figure(3.6)
        axes = drawn.subplots()
        for number, band in enumerate(bands):
            color, line = _LOOKS[number % len(_LOOKS)]
            numbers = np.arange(1, len(band.mean) + 1)
            # Of a single evaluation a line shows nothing.
            axes.step(
                numbers,
                band.mean,
                where="post",
                color=color,
                linestyle=line,
                linewidth=2.0 if number == 0 else 1.4,
                marker="o" if len(numbers) == 1 else None,
                label=band.label,
                zorder=3 if number == 0 else 2,
            )
            if (band.high > band.low).any():
                axes.fill_between(
                    numbers, band.low, band.high, step="post", color=color, alpha=0.15, linewidth=0
                )
        values = np.concatenate([band.mean for band in bands])
        values = values[np.isfinite(values)]
        floor, top = robust_floor(values.tolist()), max(band.high[-1] for band in bands)
        margin = 0.06 * ((top - floor) or abs(top) or 1.0)
        axes.set_ylim(floor - margin, top + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("evaluations")
        axes.set_ylabel(f"best {figure} so far")
        drawn.legend(loc="outside upper left", ncols=6)
        names = ", ".join(band.label for band in bands)
        return to_svg(drawn, "baselines", f"best {figure} so far of {names}")


def verification_plot(
    searched: Sequence[float], finetuned: Sequence[float], *, search_score: str, score: str
) -> str:
    """Draw the score after fine-tuning over the score in the search.

    Args:
        searched: Scores in the search, the delivered variant's first.
        finetuned: Scores after fine-tuning, of the same variants; all are finite.
        search_score: Name of the score in the search.
        score: Name of the score after fine-tuning.

    Returns:
        An ``<svg>`` element.
    """
    with style():
        drawn = new_figure(3.4)
        axes = drawn.subplots()
        axes.scatter(searched[1:], finetuned[1:], color=BLUE, s=32, linewidths=0, label="verified")
        axes.plot(
            searched[0],
            finetuned[0],
            color=ORANGE,
            marker="*",
            markersize=15,
            markeredgecolor=PAPER,
            linestyle="none",
            label="delivered",
        )
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
        axes.set_xlabel(f"{search_score} in the search")
        axes.set_ylabel(f"{score} after fine-tuning")
        drawn.legend(loc="outside upper left", ncols=2)
        return to_svg(
            drawn, "verification", f"{score} after fine-tuning of {len(searched)} variants"
        )
