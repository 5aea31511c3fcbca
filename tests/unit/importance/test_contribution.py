from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.importance.contribution import Contributions, contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.contribution_history import save_history
from rl_compress.importance.units import Units
from rl_compress.model.groups import find_groups
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.digits import digits
from rl_compress.targets.regression import RegressionTarget, regression
from rl_compress.targets.target import Target


class Line(Target):
    """y = w x + noise, with features of different size."""

    score_name = "r2"

    def __init__(self, weights: list[float], scales: list[float]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(200, len(weights), generator=generator) * torch.tensor(scales)
        self.weights = torch.tensor([weights])
        self.values = (self.inputs @ self.weights.T).squeeze(1)

    def build(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(len(self.weights[0]), 1, bias=False))
        model[0].weight = nn.Parameter(self.weights.clone())
        return model.eval()

    def split(self, name: str) -> Dataset[Any]:
        return TensorDataset(self.inputs, self.values)

    def score(self, model: nn.Module, split: str) -> float:
        raise NotImplementedError

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs.squeeze(-1), labels)


LINE = Line([2.0, 0.5, 0.01, -1.0], [1.0, 1.0, 1.0, 0.1])


def _measured(target: Target, model: nn.Module, units: Units) -> Contributions:
    return Contributions(model, units, target, 200)


def test_contributions_of_a_line_are_the_mean_squares_of_its_terms() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    expected = (LINE.inputs * LINE.weights).square().mean(dim=0).numpy()
    found = _measured(LINE, model, units)
    np.testing.assert_allclose(found.exact(torch.ones(4)), expected, rtol=1e-4)
    # The loss is a parabola with its minimum here: its second derivative says it all.
    np.testing.assert_allclose(found.taylor(torch.ones(4))[:2], expected[:2], rtol=0.3)


def test_contributions_are_those_under_the_current_ratios() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    ratios = torch.tensor([0.5, 1.0, 1.0, 1.0])
    found = _measured(LINE, model, units)
    halved = LINE.inputs[:, 0] * 2.0
    expected = halved.square().mean() - (0.5 * halved).square().mean()
    assert found.exact(ratios)[0] == pytest.approx(float(expected), rel=1e-4)
    assert found.loss(ratios) == pytest.approx(float((0.5 * halved).square().mean()), rel=1e-4)


def test_exact_contributions_are_those_of_brute_force() -> None:
    target = digits(width=4, epochs=1)
    model = target.build()
    groups = [
        g for g in find_groups(model, target.example_inputs(), SpaceConfig()).groups if g.prunable
    ]
    units = Units.channels(model, groups[:2])
    inputs, labels = next(target.batches("calibration", batch_size=64))
    found = Contributions(model, units, target, 64).exact(torch.ones(units.num_units))
    loss = nn.functional.cross_entropy(model(inputs), labels).item()
    consumers = [model.features[3], model.features[7]]
    for unit in range(units.num_units):
        consumer = consumers[unit // 4]
        saved = consumer.weight.detach().clone()
        with torch.no_grad():
            consumer.weight[:, unit % 4] = 0
            without = nn.functional.cross_entropy(model(inputs), labels).item()
            consumer.weight.copy_(saved)
        assert found[unit] == pytest.approx(without - loss, abs=1e-5)


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_estimates_rank_the_channels_of_a_trained_network_as_measurements_do() -> None:
    target = digits(epochs=10)
    model = target.build()
    groups = find_groups(model, target.example_inputs(), SpaceConfig()).groups
    groups = [group for group in groups if group.prunable and group.name != "classifier"]
    units = Units.channels(model, groups)
    measured = Contributions(model, units, target, 128)
    exact = measured.exact(torch.ones(units.num_units))
    estimated = measured.taylor(torch.ones(units.num_units))
    spearman = np.corrcoef(_ranks(exact), _ranks(estimated))[0, 1]
    assert spearman >= 0.8


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("increasing", [0.5, 0.75, 1 - 0.5 / 3]),
        ("decreasing", [0.5, 0.25, 0.125]),
        ("inverse", [1.0, 0.5, 1 / 3]),
    ],
)
def test_factors_by_hand(schedule: Any, expected: list[float]) -> None:
    config = ContributionConfig(alpha=0.5, schedule=schedule)
    assert [config.alpha_at(t) for t in range(3)] == pytest.approx(expected)
    assert all(0 < config.alpha_at(t) <= 1 for t in range(2000))


def test_the_iteration_by_hand() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    config = ContributionConfig(threshold=0.05, alpha=0.5, iterations=4, epsilon=0.0, patience=9)
    result = contribution_pruning(model, units, LINE, config)
    assert result.ratios.shape == result.contributions.shape == (4, 4)
    # Weights 0 and 1 matter; the others fade by a half each time, and none is below epsilon.
    np.testing.assert_allclose(result.ratios[:, 2], [0.5, 0.25, 0.125, 0.0625])
    np.testing.assert_allclose(result.ratios[:, 0], 1.0)
    assert result.kept.tolist() == [True] * 4
    cut = contribution_pruning(model, units, LINE, config.model_copy(update={"epsilon": 0.1}))
    assert cut.kept.tolist() == [True, True, False, False]
    # C is the running mean of what is measured under the ratios of each iteration.
    ratios = torch.ones(4)
    seen = []
    for iteration in range(4):
        seen.append(Contributions(model, units, LINE, 256).exact(ratios))
        np.testing.assert_allclose(
            result.contributions[iteration], np.mean(seen, axis=0), atol=1e-6
        )
        ratios = torch.from_numpy(result.ratios[iteration]).float()


def test_a_unit_that_becomes_important_is_restored() -> None:
    # Two equal features share the work; when one has faded the other's contribution has grown.
    target = Line([1.0, 1.0], [1.0, 1.0])
    target.inputs[:, 1] = target.inputs[:, 0]
    target.values = 2 * target.inputs[:, 0]
    model = target.build()
    units = Units.weights(model, ["0.weight"])
    # In units of the feature's mean square: c is 1 at full ratios, and 1.25 at half of them.
    unit = float(target.inputs[:, 0].square().mean())
    config = ContributionConfig(
        threshold=1.05 * unit, alpha=0.5, iterations=3, epsilon=0.0, patience=9
    )
    ratios = contribution_pruning(model, units, target, config).ratios
    assert ratios.tolist() == [[0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]


def test_it_ends_when_the_units_kept_stay_the_same() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    config = ContributionConfig(threshold=0.05, alpha=0.1, iterations=50, epsilon=0.01, patience=3)
    assert len(contribution_pruning(model, units, LINE, config).ratios) == 4


def test_the_model_is_left_as_it_is_and_training_happens_in_a_copy() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])

    def train(network: nn.Module, multipliers: dict[str, Tensor]) -> None:
        assert multipliers["0.weight"].shape == (1, 4)
        with torch.no_grad():
            network[0].weight += 1.0  # type: ignore[index]

    config = ContributionConfig(threshold=0.05, iterations=3, finetune_steps=1)
    result = contribution_pruning(model, units, LINE, config, train=train)
    assert torch.equal(model[0].weight, LINE.weights)  # type: ignore[index]
    assert (result.model[0].weight - LINE.weights).min() >= 2.0  # type: ignore[index]


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_exactly_the_informative_features(seed: int) -> None:
    target: RegressionTarget = regression(seed=seed)
    model = target.build()
    units = Units.weights(model, ["0.weight"])
    config = ContributionConfig(threshold=1e-5, alpha=0.5, iterations=15)
    result = contribution_pruning(model, units, target, config)
    assert np.flatnonzero(result.kept).tolist() == target.informative_features
    full = target.score(model, "test")
    with torch.no_grad():
        model[0].weight.mul_(torch.from_numpy(result.kept))  # type: ignore[index, operator]
    assert target.score(model, "test") >= full


def test_what_was_kept_ranks_before_what_was_not() -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    config = ContributionConfig(threshold=0.05, alpha=0.1, iterations=5, epsilon=0.1)
    result = contribution_pruning(model, units, LINE, config)
    (scores,) = result.ranking()
    assert scores[result.kept].min() > scores[~result.kept].max()
    assert result.kept_fractions().tolist() == [0.5]


def test_the_history_is_a_row_for_each_iteration_and_unit(tmp_path: Path) -> None:
    model = LINE.build()
    units = Units.weights(model, ["0.weight"])
    result = contribution_pruning(model, units, LINE, ContributionConfig(iterations=2))
    save_history(result, tmp_path / "contribution.parquet")
    rows = pq.read_table(tmp_path / "contribution.parquet").to_pylist()
    assert len(rows) == 8
    assert rows[5]["unit"] == "0[1]"
    assert rows[5]["iteration"] == 1
    assert rows[5]["contribution"] == pytest.approx(result.contributions[1, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 1.1},
        {"alpha": math.nan},
        {"threshold": math.nan},
        {"epsilon": -1.0},
        {"iterations": 0},
        {"schedule": "fast"},
        {"samples": 0},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ContributionConfig(**wrong)
