"""Plots of contribution pruning: what units contributed, and how they faded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rl_compress.report.figure import BLUE, GREY, new_figure, style, to_svg

_MOST_LINES = 300
"""More units than this are drawn thinned out, evenly."""


def contribution_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the contribution and the keep-ratio of every unit over the iterations.

    Args:
        rows: Of ``iteration``, ``unit``, ``contribution``, ``ratio`` and ``kept``, as a run's
            ``contribution.parquet`` has them.

    Returns:
        An ``<svg>`` element.
    """
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(row)
    shown = list(by_unit.values())[:: max(1, len(by_unit) // _MOST_LINES)]
    with style():
        figure = new_figure(3.4)
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
        contributions.set_ylabel("contribution")
        ratios.set_ylabel("keep-ratio")
        ratios.set_ylim(-0.03, 1.05)
        for axes in (contributions, ratios):
            axes.set_xlabel("iteration")
        return to_svg(
            figure, "contribution", f"contributions and keep-ratios of {len(by_unit)} units"
        )
