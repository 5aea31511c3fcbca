from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.targets.target import SPLITS, ClassificationTarget, Target
from rl_compress.training.recovery import FinetuningConfig, finetune, standard_error


class _Blobs(ClassificationTarget):
    """Three classes around three corners; notes which splits are scored."""

    def __init__(self, count: int = 90) -> None:
        generator = torch.Generator().manual_seed(0)
        self.scored: list[str] = []
        splits = {}
        for name in SPLITS:
            labels = torch.arange(count) % 3
            noise = torch.randn(count, 4, generator=generator)
            splits[name] = TensorDataset(3 * torch.eye(4)[labels] + noise, labels)
        super().__init__(nn.Identity, splits)

    def score(self, model: nn.Module, split: str) -> float:
        self.scored.append(split)
        assert not model.training
        return super().score(model, split)


def _network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3)
    ).eval()


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    network = _network(16, seed=0)
    config = FinetuningConfig(epochs=10, batch_size=16, distillation=0.0, learning_rate=0.02)
    finetune(network, _network(2, seed=9), _Blobs(), config)
    return network


def _config(**changes: Any) -> FinetuningConfig:
    return FinetuningConfig(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.02, **changes})


def test_a_student_learns_from_its_teacher(teacher: nn.Module) -> None:
    target, student = _Blobs(), _network(6, seed=1)
    before = target.score(student, "test")
    told: list[tuple[int, int]] = []
    result = finetune(student, teacher, target, _config(), progress=lambda *done: told.append(done))
    assert target.score(student, "test") > before + 20
    assert target.score(student, "search") == result.scores[result.kept_epoch]
    assert result.scores[result.kept_epoch] >= max(result.scores) - standard_error(teacher, target)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_the_test_split_is_never_looked_at(teacher: nn.Module) -> None:
    target = _Blobs()
    finetune(_network(6, seed=1), teacher, target, _config())
    assert set(target.scored) == {"search"}


def test_the_same_seed_gives_the_same_weights(teacher: nn.Module) -> None:
    students = [_network(6, seed=1) for _ in range(3)]
    for number, (student, seed) in enumerate(zip(students, (5, 5, 6), strict=True)):
        torch.manual_seed(100 + number)
        state = torch.random.get_rng_state()
        finetune(student, teacher, _Blobs(), _config(seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in s.parameters()]) for s in students)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class _Noisy(_Blobs):
    """Varies its training samples, and notes how many."""

    varied = 0

    def augment(self, inputs: Tensor) -> Tensor:
        self.varied += len(inputs)
        return inputs + torch.randn_like(inputs)


def test_training_samples_are_varied_and_no_others(teacher: nn.Module) -> None:
    target, plain, noisy = _Noisy(), _network(6, seed=1), _network(6, seed=1)
    result = finetune(noisy, teacher, target, _config(epochs=2))
    assert target.varied == 2 * 90
    assert target.score(noisy, "search") == result.scores[result.kept_epoch]
    finetune(plain, teacher, _Blobs(), _config(epochs=2))
    assert not torch.equal(plain[0].weight, noisy[0].weight)


def test_the_same_seed_varies_them_in_the_same_way(teacher: nn.Module) -> None:
    students = [_network(6, seed=1) for _ in range(2)]
    for number, student in enumerate(students):
        torch.manual_seed(number)
        finetune(student, teacher, _Noisy(), _config(epochs=2))
    assert torch.equal(students[0][0].weight, students[1][0].weight)


class _Scripted(_Blobs):
    """Scores that are given beforehand, and their standard error."""

    def __init__(self, scores: list[float], error: float = 0.0) -> None:
        super().__init__()
        self.left = list(scores)
        self._spread = error * math.sqrt(90)

    def sample_scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self._spread * torch.tensor([-1.0, 1.0]).repeat(len(labels) // 2)

    def score(self, model: nn.Module, split: str) -> float:
        return self.left.pop(0)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def test_the_start_is_kept_if_no_epoch_is_better(teacher: nn.Module) -> None:
    student = _network(6, seed=1)
    before = _weights(student)
    target = _Scripted([50, 49, 50, 48, 1])
    result = finetune(student, teacher, target, _config())
    assert result.kept_epoch == 0
    assert result.scores == [50, 49, 50, 48, 1]
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_a_better_epoch_replaces_a_start_without_a_score(teacher: nn.Module) -> None:
    target = _Scripted([float("nan"), 1, 3, float("nan"), 2])
    assert finetune(_network(6, 1), teacher, target, _config()).kept_epoch == 2


@pytest.mark.parametrize(
    ("scores", "error", "kept"),
    [
        ([50, 60, 62, 61, 59], 0.0, 2),
        ([50, 60, 62, 61, 59], 1.1, 3),
        ([50, 60, 62, 61, 59], 3.1, 4),
        ([50, 60, 57, 58, 70], 2.5, 4),
        # However large the error, no epoch below the start is kept.
        ([50, 53, 51, 49, 48], 9.0, 2),
    ],
)
def test_the_last_of_the_epochs_that_are_as_good_as_the_best_is_kept(
    teacher: nn.Module, scores: list[float], error: float, kept: int
) -> None:
    target, student = _Scripted(scores, error), _network(6, seed=1)
    assert standard_error(teacher, target) == pytest.approx(error)
    seen: list[Tensor] = []
    result = finetune(
        student,
        teacher,
        target,
        _config(),
        progress=lambda *_done: seen.append(student[0].weight.detach().clone()),
    )
    assert result.kept_epoch == kept
    assert torch.equal(student[0].weight, seen[kept - 1])


def test_the_standard_error_is_that_of_a_mean() -> None:
    target, network = _Blobs(), _network(6, seed=1)
    accuracy = target.score(network, "search") / 100
    expected = 100 * math.sqrt(accuracy * (1 - accuracy) / 90)
    assert standard_error(network, target) == pytest.approx(expected, rel=1e-5)
    assert standard_error(nn.Identity(), _Regression()) == 0.0


def test_patience_ends_it_early(teacher: nn.Module) -> None:
    target = _Scripted([1, 2, 2, 1, 9])
    result = finetune(_network(6, 1), teacher, target, _config(patience=2))
    assert result.scores == [1, 2, 2, 1]
    # Of equal epochs the last is kept, but it is no progress.
    assert result.kept_epoch == 2


def test_no_epochs_change_nothing(teacher: nn.Module) -> None:
    student = _network(6, seed=1)
    before = _weights(student)
    result = finetune(student, teacher, _Blobs(), _config(epochs=0))
    assert len(result.scores) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


class _Diverging(_Blobs):
    """Its loss is NaN from the 9th batch on, in the second of epochs of 6 batches."""

    calls = 0

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return super().loss(outputs, labels) * (float("nan") if self.calls >= 9 else 1.0)


def test_divergence_ends_with_the_epoch_kept_before(
    teacher: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    target, student = _Diverging(), _network(6, seed=1)
    with caplog.at_level(logging.WARNING):
        result = finetune(student, teacher, target, _config())
    assert "diverged in epoch 2; epoch 1 is kept" in caplog.text
    assert len(result.scores) == 2
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    assert target.score(student, "search") == result.scores[1]


def test_a_lone_last_sample_does_not_upset_batchnorm(teacher: nn.Module) -> None:
    target = _Blobs(count=33)
    result = finetune(_network(6, seed=1), teacher, target, _config(epochs=1))
    assert len(result.scores) == 2


class _Regression(Target):
    """y = 2 x, without labels that could be learnt from."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def split(self, name: str) -> TensorDataset:
        inputs = torch.linspace(-1, 1, 64)[:, None]
        return TensorDataset(inputs, torch.zeros(64))

    def score(self, model: nn.Module, split: str) -> float:
        with torch.inference_mode():
            inputs = self.split(split).tensors[0]
            return -float((model(inputs) - 2 * inputs).square().mean())


def test_a_regression_without_a_loss_is_distilled() -> None:
    teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(teacher.weight, 2.0)
    nn.init.zeros_(teacher.bias)
    result = finetune(student, teacher, _Regression(), _config(epochs=30, learning_rate=0.1))
    assert result.scores[result.kept_epoch] > -1e-3


@pytest.mark.parametrize(
    "change",
    [{"epochs": -1}, {"distillation": 1.5}, {"temperature": 0}, {"patience": 0}, {"epoch": 3}],
)
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        FinetuningConfig(**change)
