from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from masks import Prices, mask_space

from rl_compress.searchers.mask_prior import first_odds, mask_prior
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.space.budget import LATENCY, Budget

SPACE = mask_space(4)
PRICES = Prices([1, 1, 1, 1])
LOSSES = np.array([0.3, 0.01, -0.1, 0.2])


def _curves() -> SensitivityCurves:
    return measure_sensitivity(SPACE, lambda mask: float(LOSSES @ mask), 1)


@pytest.mark.parametrize(
    ("weight", "bound", "expected"),
    [
        (0.0, 4, [1, 1, 0, 1]),
        (0.2, 4, [1, 0, 0, 1]),  # a unit saves 0.05, more than the second one is worth
        (1.0, 4, [1, 0, 0, 0]),
        (0.0, 1, [1, 0, 0, 0]),
        (0.0, 2, [1, 0, 0, 1]),
        (0.0, 0, [0, 0, 0, 0]),
    ],
)
def test_units_stay_that_are_worth_more_than_they_cost(
    weight: float, bound: float, expected: list[int]
) -> None:
    def reward(score: float, costs: Mapping[str, float]) -> float:
        return score + weight * (1 - costs["params"] / 4) - 0.1 * costs[LATENCY]

    budget = Budget((("params", bound),))
    assert mask_prior(_curves(), budget, SPACE, PRICES, reward).tolist() == expected


@pytest.mark.parametrize(("bound", "share"), [(4, 0.5), (2, 0.5), (1, 0.25), (0, 0.05)])
@pytest.mark.parametrize("steps", [1, 3])
def test_without_prior_half_of_the_units_stay_or_what_fits(
    bound: float, share: float, steps: int
) -> None:
    odds = first_odds(None, Budget((("params", bound),)), SPACE, PRICES, steps)
    np.testing.assert_allclose(odds**steps, [share] * 4)


@pytest.mark.parametrize("steps", [1, 3])
def test_with_a_prior_the_first_masks_are_near_it(steps: int) -> None:
    budget = Budget((("params", 4),))
    odds = first_odds(np.array([1, 0, 0, 1]), budget, SPACE, PRICES, steps)
    np.testing.assert_allclose(odds**steps, [0.95, 0.05, 0.05, 0.95])
