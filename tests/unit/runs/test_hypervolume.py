from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.runs.hypervolume import hypervolume


def _by_counting(points: list[tuple[int, ...]], reference: tuple[int, ...]) -> int:
    """Count the unit cells of an integer grid that some point dominates."""
    cells = itertools.product(*(range(-5, bound) for bound in reference))
    return sum(
        any(all(c >= p for c, p in zip(cell, point, strict=True)) for point in points)
        for cell in cells
    )


@pytest.mark.parametrize("objectives", [1, 2, 3])
@given(data=st.data())
def test_it_is_the_number_of_dominated_cells(objectives: int, data: st.DataObject) -> None:
    point = st.tuples(*[st.integers(-5, 6)] * objectives)
    points = data.draw(st.lists(point, max_size=8))
    reference = (4,) * objectives
    inside = [p for p in points if all(value < 4 for value in p)]
    assert hypervolume(points, reference) == pytest.approx(_by_counting(inside, reference))


def test_known_volumes() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0.0
    assert hypervolume([[0.25, 0.5]], [1.0, 1.0]) == pytest.approx(0.375)
    assert hypervolume([[0, 0.5], [0.5, 0]], [1, 1]) == pytest.approx(0.75)
    assert hypervolume([[0, 0, 0.5], [0.5, 0.5, 0]], [1, 1, 1]) == pytest.approx(0.625)


def test_dominated_equal_and_unusable_points_add_nothing() -> None:
    useful = [[0.2, 0.4]]
    rest = [[0.2, 0.4], [0.3, 0.5], [0.1, 1.0], [math.nan, 0.0], [-math.inf, 0.5]]
    assert hypervolume(useful + rest, [1, 1]) == pytest.approx(hypervolume(useful, [1, 1]))


def test_a_front_of_hundreds_of_points_is_quick() -> None:
    points = np.random.default_rng(0).uniform(size=(300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert 0.3 < hypervolume(1 - points, [1, 1, 1]) < math.pi / 6
