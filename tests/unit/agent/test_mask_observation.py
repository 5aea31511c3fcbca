from __future__ import annotations

import numpy as np
import pytest
from masks import MaskedLinear, Prices, mask_space

from rl_compress.agent.mask_observation import (
    CONTEXT,
    UNIT_FEATURES,
    MaskObserver,
)
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.space.budget import Budget

WEIGHTS = np.array([1.0, -1.0, 2.0, -2.0, 0.5, 4.0])
IMPORTANCES = np.abs(WEIGHTS)
STD = WEIGHTS.std()
SPACE = mask_space(6)
HISTOGRAM, WEIGHT, USAGE, KEPT, VALUE, STEP = (
    slice(0, 16),
    slice(16, 21),
    21,
    22,
    23,
    24,
)
MASK, IMPORTANCE, SENSITIVITY, COST = range(4)


def make_observer(
    curves: SensitivityCurves | None = None, importance: np.ndarray = IMPORTANCES
) -> MaskObserver:
    budget = Budget((("params", 4.0),))
    prices = Prices([1, 1, 1, 1, 2, 2])
    return MaskObserver(MaskedLinear(WEIGHTS), SPACE, budget, prices, importance, curves, unit=0.5)


def units(observation: np.ndarray) -> np.ndarray:
    return observation[CONTEXT:].reshape(-1, UNIT_FEATURES)


def test_the_size_is_that_of_the_context_and_a_row_for_each_unit() -> None:
    observer = make_observer()
    assert observer.size == 25 + 4 * 6
    assert observer.observe(SPACE.full, 0.0, 0.0).shape == (observer.size,)


def test_the_histogram_is_that_of_the_weights_kept() -> None:
    observer = make_observer()
    for mask in ([1] * 6, [1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]):
        kept = WEIGHTS[np.array(mask) == 1]
        edges = np.linspace(-3 * STD, 3 * STD, 17)
        counts, _ = np.histogram(kept, edges)
        found = observer.observe(np.array(mask), 0.0, 0.0)[HISTOGRAM]
        np.testing.assert_allclose(found, counts / len(kept), rtol=1e-5)
        assert found.sum() == pytest.approx(1.0)


def test_the_moments_are_those_of_the_weights_kept() -> None:
    found = make_observer().observe(np.array([1, 0, 1, 0, 0, 1]), 0.0, 0.0)[WEIGHT]
    kept = np.array([1.0, 2.0, 4.0]) / STD
    expected = [kept.mean(), kept.std(), kept.mean(), kept.max() / 10, np.log10(3) / 8]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_empty_variant_has_no_distribution() -> None:
    found = make_observer().observe(np.zeros(6, dtype=np.int64), 0.0, 0.0)
    assert (found[HISTOGRAM] == 0).all()
    assert (found[WEIGHT] == 0).all()
    assert np.isfinite(found).all()


def test_budget_share_value_and_step() -> None:
    found = make_observer().observe(np.array([1, 0, 0, 0, 1, 0]), -0.3, 0.25)
    np.testing.assert_allclose(found[[USAGE, KEPT, VALUE, STEP]], [3 / 4, 2 / 6, -0.3, 0.25])


def test_rows_of_the_units() -> None:
    mask = np.array([1, 0, 1, 1, 0, 1])
    found = units(make_observer().observe(mask, 0.0, 0.0))
    assert found[:, MASK].tolist() == mask.tolist()
    logarithms = np.log(np.abs(WEIGHTS))
    expected = (logarithms - logarithms.mean()) / logarithms.std()
    np.testing.assert_allclose(found[:, IMPORTANCE], expected, rtol=1e-4, atol=1e-6)
    assert (found[:, SENSITIVITY] == 0).all()
    np.testing.assert_allclose(found[:, COST], [0.5, 0.5, 0.5, 0.5, 1.0, 1.0])


def test_sensitivities_are_squashed() -> None:
    losses = np.array([0.5, 0.0, -0.2, 1.5, 0.0, 0.0])
    curves = measure_sensitivity(SPACE, lambda mask: float(losses @ mask), 1)
    found = units(make_observer(curves).observe(SPACE.full, 0.0, 0.0))
    np.testing.assert_allclose(found[:, SENSITIVITY], [0.5, 0, 0, 0.75, 0, 0], atol=1e-6)


def test_observations_are_bounded() -> None:
    observer = make_observer()
    found = observer.observe(SPACE.full, -1e9, 0.0)
    assert found[VALUE] == -observer.bound


def test_importances_of_nothing_are_alike() -> None:
    observer = make_observer(importance=np.zeros(6))
    assert (units(observer.observe(SPACE.full, 0.0, 0.0))[:, IMPORTANCE] == 0).all()


def test_what_is_next_to_nothing_does_not_stretch_the_rest() -> None:
    found = [
        units(
            make_observer(importance=np.array([1.0, least, 1e-9, 0.0, 0.0, 0.0])).observe(
                SPACE.full, 0.0, 0.0
            )
        )
        for least in (1e-8, 0.0)
    ]
    np.testing.assert_array_equal(found[0], found[1])
