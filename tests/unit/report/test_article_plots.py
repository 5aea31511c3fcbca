from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from rl_compress.report.contribution_plots import contribution_plot
from rl_compress.report.quantizer_plots import quantizer_plot


def _lines(svg: str) -> int:
    return sum(1 for _ in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"))


def test_each_quantizer_is_a_curve() -> None:
    one = quantizer_plot({"uniform": [(2.1, 9.0), (4.1, 19.0)]})
    two = quantizer_plot({"uniform": [(2.1, 9.0)], "kmeans": [(2.4, 9.2), (5.6, 21.0)]})
    assert "kmeans" not in one
    assert _lines(two) > _lines(one)


def test_each_unit_has_a_line_for_its_contribution_and_its_ratio() -> None:
    rows = [
        {"iteration": t, "unit": f"fc[{u}]", "contribution": u - 1, "ratio": 1.0, "kept": u > 0}
        for t in range(3)
        for u in range(4)
    ]
    assert _lines(contribution_plot(rows)) - _lines(contribution_plot(rows[:1])) >= 6
    assert "of 4 units" in contribution_plot(rows)
