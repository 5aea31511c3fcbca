from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest

from rl_compress.report.figure import robust_floor
from rl_compress.report.group_plots import GroupBar, policy_bars, sensitivity_map
from rl_compress.report.plots import contribution_plot, pareto_plot, search_curve

if TYPE_CHECKING:
    from collections.abc import Callable

SPREAD = [(300.0 + 60 * i, -1.0 / (i + 1)) for i in range(12)]
STRIP = [(299.0 + i / 10, -1.0 / (i + 1)) for i in range(10)]


def pareto(points: list[tuple[float, float]], **more: Any) -> str:
    arguments: dict[str, Any] = {
        "front": points[-2:],
        "best": points[-1],
        "original": (1000.0, 0.0),
    }
    return pareto_plot(points, cost="macs", score="fidelity", bound=300.0, **(arguments | more))


def bars(count: int) -> str:
    return policy_bars(
        [
            GroupBar(
                name=f"stage{index}.$conv_{index}$",
                pruning_ratio=None if index % 5 == 0 else index / (count + 1),
                macs_before=1 / count,
                macs_after=0.5 / count,
            )
            for index in range(count)
        ]
    )


def heat(count: int) -> str:
    curves = {
        f"conv{index}": [(0.0, 0.0), (0.3 + 0.001 * index, -0.1), (0.9, -float(index))]
        for index in range(count)
    }
    return sensitivity_map(curves, score="fidelity", chosen={"conv0": 0.3, "elsewhere": 0.1})


def bits() -> str:
    return policy_bars(
        [
            GroupBar(name="conv1", pruning_ratio=None, weight_bits=8, macs_before=0.2),
            GroupBar(name="conv2", pruning_ratio=0.5, weight_bits=3, activation_bits=4),
        ]
    )


def bits_map() -> str:
    curves = {"conv1": [(8.0, 0.0), (4.0, -0.1), (2.0, -3.0)], "conv2": [(8.0, 0.0), (2.0, -1.0)]}
    chosen = {"conv1": 4.0}
    return sensitivity_map(curves, score="f", chosen=chosen, decides="weight_bits")


DRAWINGS: dict[str, Callable[[], str]] = {
    "pareto": lambda: pareto(SPREAD),
    "pareto, broken axis": lambda: pareto(STRIP),
    "pareto, dots only": lambda: pareto(SPREAD, front=[], best=None, original=None),
    "pareto, one evaluation": lambda: pareto(SPREAD[:1]),
    "pareto, a score missing": lambda: pareto([(400.0, float("nan")), *SPREAD]),
    "pareto, a front of nothing": lambda: pareto(SPREAD, front=[(400.0, float("nan"))]),
    "pareto, many dots": lambda: pareto([(i, i % 7) for i in range(3500)]),
    "search": lambda: search_curve([-3.0, float("nan"), -0.5, -0.7], score="f", original=0.0),
    "search, bad start": lambda: search_curve([float("nan"), -1.0], score="f"),
    "bars, few": lambda: bars(6),
    "bars, many": lambda: bars(60),
    "bars, no MACs": lambda: policy_bars([GroupBar(name="conv1", pruning_ratio=0.5)]),
    "bars with bits": bits,
    "map of bits": bits_map,
    "map, one": lambda: heat(1),
    "map, many": lambda: heat(60),
    "map, one level": lambda: sensitivity_map({"conv1": [(0.5, -1.0)]}, score="f"),
}


@pytest.fixture(params=DRAWINGS, scope="module")
def svg(request: pytest.FixtureRequest) -> str:
    return DRAWINGS[request.param]()


def test_a_plot_is_one_described_svg_element(svg: str) -> None:
    element = ET.fromstring(svg)
    assert element.tag == "{http://www.w3.org/2000/svg}svg"
    assert element.get("aria-label")
    assert "viewBox" in element.attrib


def test_a_plot_refers_to_nothing_outside(svg: str) -> None:
    references = re.findall(r'(?:href="|url\()([^")]*)', svg)
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    for reference in references:
        assert reference.startswith("data:image/png;base64,") or reference[1:] in ids
    assert "<text" not in svg, "text must be drawn as paths, to need no font"
    assert "<metadata" not in svg


def test_the_same_figures_give_the_same_plot() -> None:
    for draw in (DRAWINGS["pareto, broken axis"], DRAWINGS["bars, few"], DRAWINGS["map, one"]):
        assert draw() == draw()


def test_ids_differ_between_plots_of_a_page() -> None:
    plots = (pareto(SPREAD), search_curve([1.0, 2.0], score="f"), bars(3), heat(3))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in plots]
    assert sum(len(group) for group in ids) == len(set.union(*ids))


def test_colours_follow_the_theme_of_the_page() -> None:
    assert "var(--ink" in pareto(SPREAD)


def test_candidates_in_a_narrow_strip_break_the_axis() -> None:
    assert pareto(STRIP).count('id="pareto-axes_') == 2
    assert pareto(SPREAD).count('id="pareto-axes_') == 1


def test_many_dots_become_an_image() -> None:
    assert "data:image/png" in DRAWINGS["pareto, many dots"]()
    assert "data:image/png" not in pareto(SPREAD)


def test_each_unit_has_a_line_for_its_contribution_and_its_ratio() -> None:
    rows = [
        {"iteration": t, "unit": f"fc[{u}]", "contribution": u - 1, "ratio": 1.0, "kept": u > 0}
        for t in range(3)
        for u in range(4)
    ]
    assert contribution_plot(rows).count("<path") - contribution_plot(rows[:1]).count("<path") >= 6
    assert "of 4 units" in contribution_plot(rows)


def test_many_groups_make_a_taller_plot() -> None:
    heights = [float(re.findall(r'height="([\d.]+)pt"', bars(count))[0]) for count in (6, 60)]
    assert heights[1] > 3 * heights[0]


def test_drawing_leaves_the_settings_alone() -> None:
    settings: Any = mpl.rcParams
    names = ("font.size", "axes.facecolor", "svg.fonttype", "svg.hashsalt", "text.parse_math")
    before = [settings[name] for name in names]
    bars(2)
    assert [settings[name] for name in names] == before


def test_drawing_does_without_pyplot() -> None:
    code = (
        "import sys; from rl_compress.report.plots import search_curve;"
        "search_curve([1.0, 2.0], score='accuracy');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_few_disasters_do_not_set_the_scale() -> None:
    assert robust_floor([-100.0, *[-1.0 + i / 100 for i in range(100)]]) > -2.0
    assert robust_floor([1.0, 2.0, 3.0]) == 1.0
    assert robust_floor([5.0]) == 5.0
