from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_target import tiny
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.fidelity import Fidelity
from rl_compress.evaluation.robust_score import RobustScore
from rl_compress.evaluation.scores import TargetScore, make_score
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Batch, Target
from rl_compress.variants.compressor import Compressor


class _Regression(Target):
    """Predicts one value of three."""

    score_name = "r2"
    batch_size = 5

    def __init__(self, shape: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(12, 3, generator=generator)
        self._shape = shape

    def build(self) -> nn.Module:
        model = nn.Linear(3, 1)
        model.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]))
        model.bias = nn.Parameter(torch.tensor([0.25]))
        return nn.Sequential(model, _Reshaped(self._shape))

    def split(self, name: str) -> Dataset[Batch]:
        return TensorDataset(self._inputs, self._inputs[:, :1])  # type: ignore[return-value]

    def score(self, model: nn.Module, split: str) -> float:
        return 0.5


class _Reshaped(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self._shape(x)


@pytest.mark.parametrize(
    "shape",
    [lambda x: x, lambda x: x.squeeze(1), lambda x: x.reshape(-1, 1, 1, 1)],
    ids=["last axis of one", "one axis", "images of one channel"],
)
def test_fidelity_of_single_values_is_relative_squared_error(
    shape: Callable[[Tensor], Tensor],
) -> None:
    target = _Regression(shape)
    reference = target.build()
    fidelity = Fidelity(target, reference)
    assert fidelity(reference) == 0.0
    variant = nn.Sequential(reference, _Reshaped(lambda outputs: outputs + 3.0))
    with torch.no_grad():
        outputs = reference(target._inputs).double().numpy()
    # A constant error of 3.
    assert fidelity(variant) == pytest.approx(-9.0 / np.var(outputs), rel=1e-5)


def test_fidelity_to_a_constant_is_refused() -> None:
    target = _Regression()
    with pytest.raises(ConfigError, match=r"objective.score: .*variance.*choose r2"):
        Fidelity(target, nn.Sequential(target.build(), _Reshaped(torch.zeros_like)))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("accuracy", TargetScore), ("fidelity", Fidelity), ("robust_accuracy", RobustScore)],
)
def test_a_score_is_chosen_by_name(name: str, kind: type) -> None:
    target = tiny()
    assert isinstance(make_score(name, target, target.build()), kind)


def test_the_targets_own_score_goes_by_its_name() -> None:
    target = _Regression()
    assert make_score("r2", target, target.build())(target.build()) == 0.5
    with pytest.raises(
        ConfigError,
        match=r"objective.score: must be r2, fidelity, robust_accuracy, or your own .*'accuracy'",
    ):
        make_score("accuracy", target, target.build())


def test_robustness_needs_a_loss_from_the_start() -> None:
    target = _Regression()
    with pytest.raises(ConfigError, match=r"objective.score: .*loss.*_Regression"):
        make_score("robust_accuracy", target, target.build())


def test_robust_accuracy_falls_with_the_strength_of_the_attack() -> None:
    target = tiny()
    model = target.build()
    clean = target.score(model, "search")
    scores = [
        make_score("robust_accuracy", target, model, {"epsilon": epsilon})(model)
        for epsilon in (1e-6, 0.03, 0.1)
    ]
    assert clean == scores[0] >= scores[1] > scores[2]
    several = {"epsilon": 0.1, "steps": 5}
    assert make_score("robust_accuracy", target, model, several)(model) <= scores[2]


def test_each_variant_is_attacked_through_its_own_gradient() -> None:
    target = tiny()
    reference = target.build()
    robust = make_score("robust_accuracy", target, reference, {"epsilon": 0.1})
    blind = nn.Sequential(reference, _Reshaped(lambda logits: logits.round().detach() + 0 * logits))
    # Its gradient is zero, so no input is changed.
    assert robust(blind) == target.score(blind, "search") > robust(reference)


def test_the_evaluator_scores_shared_variants_under_attack() -> None:
    target = tiny()
    compressor = Compressor.prepare(target.build(), target.example_inputs(), SpaceConfig())
    robust = Evaluator(target, compressor, "robust_accuracy", EvaluationConfig())
    own = Evaluator(target, compressor, "accuracy", EvaluationConfig())
    levels = compressor.space.full
    levels[0] = 0
    first = robust.evaluate(levels).score
    assert first < own.evaluate(levels).score
    assert robust.evaluate(levels).score == first
