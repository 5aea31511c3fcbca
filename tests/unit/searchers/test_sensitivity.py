from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.errors import CorruptFileError, EvaluationError
from rl_compress.searchers.sensitivity import SensitivityCurves, allowance, measure_sensitivity
from rl_compress.space.search_space import Amounts, Dimension, SearchSpace

SPACE = SearchSpace(
    (Dimension("a", "channels", tuple(range(1, 9))), Dimension("b", "channels", (2, 4, 6)))
)
CURVES = SensitivityCurves(("a", "b"), ((8, 4, 1), (6, 2)), ((1.0, 0.75, 0.25), (1.0, 0.5)))


BITS = (2, 3, 4, 5, 6, 8)


JOINT = SearchSpace(
    (Dimension("a", "channels", tuple(range(1, 33))), Dimension("a", "weight_bits", BITS))
)


def _measure(
    space: SearchSpace,
    score: Callable[[Amounts], float | None],
    count: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> SensitivityCurves:
    """Measure with scores of units and bits."""
    return measure_sensitivity(space, lambda levels: score(space.amounts(levels)), count, advance)


def _measured(curves: SensitivityCurves) -> list[set[int]]:
    return [set(amounts) for amounts in curves.amounts]


def test_each_dimension_is_measured_alone() -> None:
    asked: list[list[int]] = []

    def score(amounts: Amounts) -> float:
        asked.append(amounts.tolist())
        return float(amounts.sum())

    curves = _measure(SPACE, score, 2)
    assert asked[:3] == [[8, 6], [1, 6], [8, 2]]
    assert all(a == 8 or b == 6 for a, b in asked)
    assert len(asked) == len({tuple(amounts) for amounts in asked}) == curves.evaluations == 5
    assert curves.groups == ("a", "b")
    for index, other in ((0, 6.0), (1, 8.0)):
        assert curves.scores[index] == tuple(amount + other for amount in curves.amounts[index])
    assert curves.original_score == 14.0


def test_the_steepest_part_is_measured() -> None:
    """A cliff between 7 and 6 units is closed in on; the flat group gets nothing."""
    curves = _measure(SPACE, lambda amounts: -float(amounts[0] < 7) - 1e-9, 2)
    assert _measured(curves) == [{8, 4, 6, 1}, {6, 2}]


def test_losses_of_every_decade_count() -> None:
    """The curve falls evenly in its logarithm; halving by plain differences would stay at 1."""
    space = SearchSpace((Dimension("a", "channels", tuple(range(1, 34))),))
    curves = _measure(space, lambda amounts: -(10.0 ** (-float(amounts[0]) / 4)), 4)
    assert _measured(curves)[0] >= {33, 17, 9, 1}


def test_nothing_is_measured_where_the_curve_is_known() -> None:
    seen: list[tuple[int, int]] = []
    curves = _measure(SPACE, lambda _amounts: 0.0, 4, lambda *step: seen.append(step))
    assert curves.evaluations == 3
    assert seen == [(1, 7), (2, 7), (3, 7), (3, 3)]
    assert curves.loss_table(0, (1, 4, 8)).tolist() == [0.0, 0.0, 0.0]


def test_a_dimension_with_one_level_is_not_measured() -> None:
    space = SearchSpace((Dimension("a", "channels", (4,)), Dimension("b", "channels", (1, 2))))
    curves = _measure(space, lambda amounts: float(amounts[1]), 8)
    assert curves.amounts == ((4,), (2, 1))
    assert curves.drop_at(0, 4) == 0.0


@pytest.mark.parametrize(("count", "expected"), [(1, 3), (3, 6), (4, 8), (99, 1 + 31 + 5)])
def test_bits_get_fewer_measurements(count: int, expected: int) -> None:
    assert allowance(JOINT, count) == expected


@given(st.lists(st.floats(-10, 10), min_size=8, max_size=8), st.integers(1, 9))
def test_any_curve_stays_within_its_allowance(values: list[float], count: int) -> None:
    curves = _measure(SPACE, lambda amounts: values[amounts[0] - 1], count)
    assert curves.evaluations <= allowance(SPACE, count)
    assert all(
        {d.amounts[0], d.full} <= m
        for d, m in zip(SPACE.dimensions, _measured(curves), strict=True)
    )
    table = curves.loss_table(0, SPACE.dimensions[0].amounts)
    assert (table >= 0).all()
    assert (np.diff(table) <= 1e-12).all()


def test_a_failure_counts_as_the_worst() -> None:
    def score(amounts: Amounts) -> float | None:
        return None if amounts[0] == 1 else float(amounts.sum())

    curves = _measure(SPACE, score, 1)
    assert curves.scores == ((14.0, 10.0), (14.0, 10.0))


def test_an_uncompressed_target_that_fails_is_reported() -> None:
    with pytest.raises(EvaluationError, match="uncompressed"):
        _measure(SPACE, lambda _amounts: None, 1)


def test_dimensions_of_one_group_are_kept_apart(tmp_path: Path) -> None:
    curves = _measure(JOINT, lambda amounts: float(amounts[0] + 10 * amounts[1]), 3)
    assert curves.groups == ("a", "a")
    assert curves.decides == ("pruning_ratio", "weight_bits")
    curves.save(tmp_path / "sensitivity.parquet")
    assert SensitivityCurves.load(tmp_path / "sensitivity.parquet") == curves
    assert curves.points()["a"][0] == (0.0, 112.0)
    assert curves.points("weight_bits")["a"][0] == (8.0, 112.0)
    assert curves.points("activation_bits") == {}
    ratios = pq.read_table(tmp_path / "sensitivity.parquet")["pruning_ratio"].to_pylist()
    assert [ratio is None for ratio in ratios] == [
        kind == "weight_bits"
        for kind, w in zip(curves.decides, curves.amounts, strict=True)
        for _ in w
    ]


def test_curves_of_a_release_without_bits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.parquet"
    CURVES.save(path)
    pq.write_table(pq.read_table(path).drop_columns(["decides"]), path)
    assert SensitivityCurves.load(path) == CURVES


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


@pytest.mark.parametrize(("index", "amount", "drop"), [(0, 8, 0.0), (0, 4, 0.25), (0, 1, 0.75)])
def test_curves_pass_through_the_measurements(index: int, amount: int, drop: float) -> None:
    assert CURVES.drop_at(index, amount) == pytest.approx(drop)


def test_losses_between_measurements_are_linear_in_their_logarithm() -> None:
    # Halfway between 0.75 and 0.25, but for the floor of a thousandth of the largest loss.
    assert CURVES.drop_at(0, 2.5) == pytest.approx((0.75 * 0.25) ** 0.5, rel=2e-3)


def test_a_narrower_group_never_loses_less() -> None:
    noisy = SensitivityCurves(("a",), ((8, 6, 4, 2),), ((1.0, 0.5, 0.75, 0.25),))
    amounts, drops = noisy.drops(0)
    assert amounts.tolist() == [2, 4, 6, 8]
    assert drops.tolist() == [0.75, 0.5, 0.5, 0.0]


def test_a_better_score_than_the_originals_is_no_loss() -> None:
    lucky = SensitivityCurves(("a",), ((8, 4),), ((1.0, 1.5),))
    assert lucky.drop_at(0, 4) == 0.0


def test_points_are_ratios_and_scores() -> None:
    assert CURVES.points() == {
        "a": [(0.0, 1.0), (0.5, 0.75), (0.875, 0.25)],
        "b": [(0.0, 1.0), (pytest.approx(2 / 3), 0.5)],
    }


def test_curves_of_all_levels_reproduce_the_scores() -> None:
    scores = np.linspace(0, 1, 8) ** 2
    curves = _measure(SPACE, lambda amounts: float(scores[amounts[0] - 1]), 99)
    np.testing.assert_allclose(
        curves.loss_table(0, SPACE.dimensions[0].amounts), 1 - scores, atol=0.05
    )
