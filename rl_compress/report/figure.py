"""The look of every plot: inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

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


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlib settings are."""
    with mpl.style.context(["default", _STYLE]):
        yield


def new_figure(height: float) -> Figure:
    """Return an empty figure of the report's width.

    Args:
        height: In inches.
    """
    return Figure(figsize=(WIDTH, height), layout="constrained")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element, the same text for the same figure.

    Args:
        figure: Drawn within :func:`style`.
        name: Distinguishes the figure's ids from those of others on the page.
        description: What it shows, for readers who do not see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for color, variable in _THEMED.items():
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def percent_axis(axes: Axes, *, axis: str) -> None:
    """Label the ticks of an axis of fractions in percent."""
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def robust_floor(scores: Sequence[float]) -> float:
    """Return the score from which a plot should start, so that a few disasters do not fill it.

    Args:
        scores: Finite scores, at least one.
    """
    lowest, low, high = (float(np.quantile(scores, q)) for q in (0.0, 0.1, 1.0))
    return low if low - lowest > high - low else lowest
