from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.target import ClassificationTarget, Target


class _Pairs(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index), -float(index)]), 0


class _Plain(Target):
    """A target that leaves everything at its default."""

    def build(self) -> nn.Module:
        return nn.Identity()

    def split(self, name: str) -> Dataset:
        return _Pairs()

    def score(self, model: nn.Module, split: str) -> float:
        return 0.0


def _target() -> ClassificationTarget:
    inputs = torch.arange(20.0).reshape(10, 2)
    splits = {
        name: TensorDataset(inputs, torch.arange(10) % 2) for name in ("train", "search", "test")
    }
    return ClassificationTarget(nn.Identity, {**splits, "calibration": _Pairs()}, batch_size=4)


def test_a_missing_split_is_named() -> None:
    with pytest.raises(TargetError, match="calibration, test"):
        ClassificationTarget(nn.Identity, {"train": _Pairs(), "search": _Pairs()})


def test_batches_hold_every_sample_once_in_order_or_shuffled() -> None:
    target = _target()
    in_order = torch.cat([inputs for inputs, _ in target.batches("train")])
    shuffled = torch.cat([inputs for inputs, _ in target.batches("train", shuffle_seed=1)])
    again = torch.cat([inputs for inputs, _ in target.batches("train", shuffle_seed=1)])
    assert torch.equal(in_order, torch.arange(20.0).reshape(10, 2))
    assert not torch.equal(shuffled, in_order)
    assert torch.equal(shuffled[shuffled[:, 0].argsort()], in_order)
    assert torch.equal(shuffled, again)


def test_other_datasets_are_collated() -> None:
    sizes = [len(labels) for _, labels in _target().batches("calibration", batch_size=2)]
    assert sizes == [2, 2, 1]


def test_accuracy_is_in_percent() -> None:
    # Inputs are (2i, 2i + 1): the larger is always the second, and half of the labels are 1.
    assert _target().score(nn.Identity(), "test") == 50.0


def test_example_input_has_a_batch_of_one() -> None:
    (example,) = _target().example_inputs()
    assert example.shape == (1, 2)


@pytest.mark.parametrize(
    ("shape", "class_axis"), [((3, 4), -1), ((3, 2, 4), -1), ((3, 4, 2, 2), 1)]
)
def test_distillation_is_temperature_squared_times_kl(
    shape: tuple[int, ...], class_axis: int
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape), torch.randn(shape)
    p, q = (teacher / 3).softmax(class_axis), (student / 3).softmax(class_axis)
    expected = 9 * (p * (p / q).log()).sum(class_axis).mean()
    torch.testing.assert_close(_Plain().distillation_loss(student, teacher, 3.0), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_single_values_are_distilled_by_squared_error(shape: tuple[int, ...]) -> None:
    student, teacher = torch.full(shape, 3.0), torch.full(shape, 1.0)
    assert _Plain().distillation_loss(student, teacher, 2.0) == 4.0
