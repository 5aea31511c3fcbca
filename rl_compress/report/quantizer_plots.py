"""The plot of a comparison of quantizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl

from rl_compress.report.figure import new_figure, style, to_svg


def quantizer_plot(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw the signal to quantization noise ratio over what a weight takes in the file.

    Args:
        curves: By quantizer pairs of bits per weight, parameters included, and SQNR in dB.

    Returns:
        An ``<svg>`` element.
    """
    with style():
        figure = new_figure(3.8)
        axes = figure.subplots()
        colors = mpl.colormaps["viridis"].resampled(len(curves) + 1)
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), marker="o", color=colors(number), label=name)
        axes.set_xlabel("bits per weight, scales and code books included")
        axes.set_ylabel("SQNR [dB]")
        axes.legend()
        return to_svg(figure, "quantizers", f"SQNR of {len(curves)} quantizers over stored bits")
