from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from rl_compress.reporting.contribution_plots import contribution_plot
from rl_compress.reporting.quantizer_plots import quantizer_plot
from rl_compress.reporting.sweep_plots import heat_map, loss_curves
from rl_compress.reporting.sweep_report import sweep_cell


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


def test_cells_hold_the_best_of_their_trials() -> None:
    rows = [
        {"a": 0.1, "b": 1, "score": 0.25},
        {"a": 0.1, "b": 1, "score": 0.75},
        {"a": 0.3, "b": 2, "score": 0.5},
    ]
    first = heat_map(rows, "a", "b", "score", score="r2")
    assert first == heat_map(rows[1:], "a", "b", "score", score="r2")
    assert first != heat_map(rows[:1] + rows[2:], "a", "b", "score", score="r2")


def test_loss_curves_of_many_trials_have_no_legend() -> None:
    few = loss_curves({f"trial {i}": [1.0, 0.5] for i in range(3)})
    many = loss_curves({f"trial {i}": [1.0, 0.5] for i in range(30)})
    assert "3 trials" in few
    assert "30 trials" in many


def test_cells_are_short_but_tell_close_scores_apart() -> None:
    assert sweep_cell(None) == "n/a"
    assert sweep_cell(0.9999727) == "0.999973"
    assert sweep_cell("inverse") == "inverse"
