from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from rl_compress.errors import TargetError
from rl_compress.targets.regression import regression
from rl_compress.targets.splits import check_splits


def test_the_linear_model_is_the_least_squares_solution() -> None:
    target = regression(features=10, informative=3)
    inputs, values = target.split("train").tensors  # type: ignore[attr-defined]
    fitted = LinearRegression().fit(inputs.numpy(), values.numpy())
    model = target.build()
    np.testing.assert_allclose(model[0].weight.detach()[0], fitted.coef_, atol=1e-4)  # type: ignore[index]
    test_inputs, test_values = target.split("test").tensors  # type: ignore[attr-defined]
    expected = r2_score(test_values, fitted.predict(test_inputs.numpy()))
    assert target.score(model, "test") == pytest.approx(expected, abs=1e-5)
    error = float((model(test_inputs)[:, 0] - test_values).square().mean())
    assert target.mse(model, "test") == pytest.approx(error, rel=1e-4)


def test_the_informative_features_are_those_with_large_weights() -> None:
    for seed in range(5):
        target = regression(seed=seed)
        weights = target.build()[0].weight.detach()[0].abs()  # type: ignore[index]
        largest = sorted(weights.argsort(descending=True)[:8].tolist())
        assert target.informative_features == largest


def test_splits_are_disjoint_and_the_same_every_time() -> None:
    check_splits(regression())
    first, second = (regression(seed=3).split("search").tensors for _ in range(2))  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_network_learns_too() -> None:
    target = regression(model="mlp", features=8, informative=4)
    assert target.score(target.build(), "test") > 0.95


def test_one_feature_as_in_the_article() -> None:
    target = regression(features=1, noise=20.0)
    assert target.informative_features == [0]
    assert target.build()[0].in_features == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features: must be a whole number from 1"),
        ({"features": 4, "informative": 5}, r"informative: must be at most features \(4\)"),
        ({"samples": 5}, "samples"),
        ({"noise": -1.0}, "noise: must be a number from 0"),
        ({"noise": float("nan")}, "noise"),
        ({"model": "forest"}, "model: must be one of linear, mlp"),
    ],
)
def test_bad_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        regression(**options)
