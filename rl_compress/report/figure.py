"""The look of every plot: inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Concatenate, ParamSpec

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

P = ParamSpec("P")

INK = "#1c2733"
MUTED = "#66717e"
GRID = "#dde3e9"
PAPER = "#fdfdfe"
"""Colours of text, secondary text, lines and background; the page's theme replaces them."""
BLUE = "#0b72b5"
ORANGE = "#d95f0e"
GREY = "#a3aeb9"
"""Colours of data: distinct for colour-blind readers, and on light and dark backgrounds."""

EARLY_TO_LATE = LinearSegmentedColormap.from_list("early_to_late", [GREY, BLUE])
WIDTH = 9.0
"""Width of a figure, in inches."""
_MAX_BAR = 2.5
"""Height of a colour bar, in inches."""

_THEMED = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_STYLE = {
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.color": GREY,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def plot(
    name: str, height: float
) -> Callable[[Callable[Concatenate[Figure, P], str]], Callable[P, str]]:
    """Make a function that draws onto a figure, and tells what it shows, return an ``<svg>``.

    It draws in the report's style, whatever the user's matplotlib settings are, and the same text
    for the same arguments.

    Args:
        name: Distinguishes the figure's ids from those of others on the page; the figure's label,
            which the function may change.
        height: In inches, likewise.
    """

    def decorate(draw: Callable[Concatenate[Figure, P], str]) -> Callable[P, str]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
            with mpl.style.context(["default", _STYLE]):
                figure = Figure(figsize=(WIDTH, height), layout="constrained", label=name)
                return _to_svg(figure, draw(figure, *args, **kwargs))

        return drawn

    return decorate


def _to_svg(figure: Figure, description: str) -> str:
    buffer, name = io.StringIO(), figure.get_label()
    with mpl.rc_context({"svg.hashsalt": str(name)}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for color, variable in _THEMED.items():
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def percent_axis(axes: Axes) -> None:
    """Label the ticks of a horizontal axis of fractions in percent."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def robust_floor(scores: Sequence[float]) -> float:
    """Return the score from which a plot should start, so that a few disasters do not fill it.

    Args:
        scores: Finite scores, at least one.
    """
    lowest, low, high = (float(np.quantile(scores, q)) for q in (0.0, 0.1, 1.0))
    return low if low - lowest > high - low else lowest


def limit_scores(axes: Axes, scores: Sequence[float], top: float | None = None) -> int:
    """Limit the score axis and return how many scores lie below it."""
    floor, top = robust_floor(scores), max(scores) if top is None else top
    margin = 0.06 * ((top - floor) or abs(top) or 1.0)
    axes.set_ylim(floor - margin, top + margin)
    return sum(score < floor - margin for score in scores)


def star(axes: Axes, x: float, y: float, label: str) -> None:
    """Mark the variant that was chosen."""
    axes.plot(x, y, "*", color=ORANGE, markersize=15, markeredgecolor=PAPER, label=label, zorder=5)


def color_bar(figure: Figure, shown: ScalarMappable, axes: Any, label: str, clipped: bool) -> None:
    """Explain colours beside a plot, however many rows it has.

    Args:
        figure: The plot.
        shown: What is coloured.
        axes: Axes that it belongs to.
        label: What the colours tell.
        clipped: Values lie below the darkest.
    """
    figure.colorbar(
        shown,
        ax=axes,
        label=label,
        extend="min" if clipped else "neither",
        shrink=min(1.0, _MAX_BAR / figure.get_figheight()),
        aspect=12,
        anchor=(0.0, 1.0),
    ).outline.set_visible(False)
