from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_compress.errors import CorruptFileError
from rl_compress.policy.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.search.sensitivity import SensitivityCurves, levels, measure_sensitivity

SPACE = SearchSpace((GroupChoices("a", 8, tuple(range(1, 9))), GroupChoices("b", 6, (2, 4, 6))))
CURVES = SensitivityCurves(("a", "b"), ((8, 4, 1), (6, 2)), ((1.0, 0.75, 0.25), (1.0, 0.5)))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(1, [(8, 1), (6, 2)], id="ends"),
        pytest.param(2, [(8, 5, 1), (6, 4, 2)], id="middle"),
        pytest.param(99, [(8, 7, 6, 5, 4, 3, 2, 1), (6, 4, 2)], id="all"),
    ],
)
def test_levels_are_spread_from_full_to_smallest(
    count: int, expected: list[tuple[int, ...]]
) -> None:
    found = levels(SPACE, count)
    # The middle of an even number of widths may be either.
    assert [(len(w), w[0], w[-1]) for w in found] == [(len(w), w[0], w[-1]) for w in expected]
    if count != 2:
        assert found == expected


def test_a_group_with_one_width_has_one_level() -> None:
    assert levels(SearchSpace((GroupChoices("a", 4, (4,)),)), 8) == [(4,)]


def test_each_group_is_measured_alone() -> None:
    asked: list[list[int]] = []

    def score(widths: Widths) -> float:
        asked.append(widths.tolist())
        return float(widths.sum())

    curves = measure_sensitivity(SPACE, score, 2)
    assert asked[0] == [8, 6]
    assert all(a == 8 or b == 6 for a, b in asked)
    assert len(asked) == len({tuple(widths) for widths in asked}) == 5
    assert curves.groups == ("a", "b")
    assert curves.scores[0] == tuple(width + 6.0 for width in curves.widths[0])
    assert curves.scores[1] == (14.0, 12.0, 10.0)
    assert curves.original_score == 14.0


def test_progress_counts_to_its_total() -> None:
    seen: list[tuple[int, int]] = []
    measure_sensitivity(SPACE, lambda _widths: 0.0, 2, lambda *step: seen.append(step))
    assert seen == [(done, 5) for done in range(1, 6)]


def test_curves_survive_their_file(tmp_path: Path) -> None:
    CURVES.save(tmp_path / "sensitivity.parquet")
    assert SensitivityCurves.load(tmp_path / "sensitivity.parquet") == CURVES
    assert [path.name for path in tmp_path.iterdir()] == ["sensitivity.parquet"]


def _truncated(path: Path) -> None:
    CURVES.save(path)
    path.write_bytes(path.read_bytes()[:100])


def _other_columns(path: Path) -> None:
    pq.write_table(pa.table({"layer": ["a"], "score": [1.0]}), path)


@pytest.mark.parametrize(
    "spoil",
    [_truncated, _other_columns, lambda path: path.write_bytes(b"")],
    ids=["truncated", "other-columns", "empty"],
)
def test_a_file_that_holds_no_curves_is_named(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "sensitivity.parquet"
    spoil(path)  # type: ignore[operator]
    with pytest.raises(CorruptFileError, match=r"sensitivity\.parquet: not readable"):
        SensitivityCurves.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"absent\.parquet"):
        SensitivityCurves.load(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    ("group", "width", "drop"),
    [(0, 8, 0.0), (0, 4, 0.25), (0, 6, 0.125), (0, 1, 0.75), (1, 4, 0.25)],
)
def test_drops_are_linear_between_measurements(group: int, width: float, drop: float) -> None:
    assert CURVES.drop_at(group, width) == pytest.approx(drop)


def test_a_narrower_group_never_loses_less() -> None:
    noisy = SensitivityCurves(("a",), ((8, 6, 4, 2),), ((1.0, 0.5, 0.75, 0.25),))
    widths, drops = noisy.drops(0)
    assert widths.tolist() == [2, 4, 6, 8]
    assert drops.tolist() == [0.75, 0.5, 0.5, 0.0]


def test_a_better_score_than_the_originals_is_no_loss() -> None:
    lucky = SensitivityCurves(("a",), ((8, 4),), ((1.0, 1.5),))
    assert lucky.drop_at(0, 4) == 0.0


def test_points_are_ratios_and_scores() -> None:
    assert CURVES.points() == {
        "a": [(0.0, 1.0), (0.5, 0.75), (0.875, 0.25)],
        "b": [(0.0, 1.0), (pytest.approx(2 / 3), 0.5)],
    }


def test_curves_of_all_widths_reproduce_the_scores() -> None:
    scores = np.linspace(0, 1, 8) ** 2
    curves = measure_sensitivity(SPACE, lambda widths: float(scores[widths[0] - 1]), 99)
    for width in range(1, 9):
        assert curves.drop_at(0, width) == pytest.approx(1 - scores[width - 1])
