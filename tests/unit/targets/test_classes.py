"""Score, scores of samples, loss, distillation and fidelity take classes along one axis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import TargetError
from rl_compress.evaluation.fidelity import Fidelity
from rl_compress.targets.target import SPLITS, ClassificationTarget

SHAPES = [
    pytest.param((6, 5), (6,), 1, id="B C"),
    pytest.param((6, 5, 3, 4), (6, 3, 4), 1, id="B C H W"),
    pytest.param((6, 3, 5), (6, 3), 2, id="B T C"),
    pytest.param((6, 5, 3), (6, 3), 1, id="B C T"),
    pytest.param((6, 3, 4, 5), (6, 3, 4), 3, id="B H W C"),
]


def _target(outputs: Tensor, labels: Tensor, **options: Any) -> ClassificationTarget:
    splits = dict.fromkeys(SPLITS, TensorDataset(outputs, labels))
    return ClassificationTarget(nn.Identity, splits, batch_size=4, **options)


def _logits(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize(("shape", "label_shape", "axis"), SHAPES)
def test_all_take_classes_along_the_same_axis(
    shape: tuple[int, ...], label_shape: tuple[int, ...], axis: int, dtype: torch.dtype
) -> None:
    outputs = _logits(shape)
    labels = torch.randint(0, 5, label_shape, generator=torch.Generator().manual_seed(1))
    target = _target(outputs, labels.to(dtype))
    last = outputs.movedim(axis, -1).double()
    right = (last.argmax(-1) == labels).double()

    target.check_labels(outputs, labels.to(dtype))
    assert target.score(nn.Identity(), "search") == pytest.approx(100 * float(right.mean()))
    torch.testing.assert_close(
        target.sample_scores(outputs, labels.to(dtype)), 100 * right.reshape(6, -1).mean(1)
    )
    picked = last.log_softmax(-1).gather(-1, labels[..., None])
    torch.testing.assert_close(
        target.loss(outputs, labels.to(dtype)).double(), -picked.mean(), atol=1e-6, rtol=1e-5
    )
    other = outputs.flip(0)
    p, q = last.softmax(-1), last.flip(0).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    # Anew, for a worker may distil before it has scored anything.
    distilled = _target(outputs, labels).distillation_loss(other, outputs, 1.0)
    torch.testing.assert_close(distilled.double(), divergence, atol=1e-6, rtol=1e-5)
    fidelity = Fidelity(target, nn.Identity())
    doubled = nn.Identity()
    doubled.forward = lambda x: 2 * x  # type: ignore[assignment]
    q = (2 * last).softmax(-1)
    assert fidelity(doubled) == pytest.approx(-float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_what_is_open_is_asked_for_and_can_be_given() -> None:
    outputs, labels = _logits((6, 5, 5)), torch.randint(0, 5, (6, 5))
    with pytest.raises(TargetError, match=r"axes 1, 2 .*give class_axis"):
        _target(outputs, labels).score(nn.Identity(), "search")
    scores = [
        _target(outputs, labels, class_axis=axis).score(nn.Identity(), "search")
        for axis in (1, 2, -1)
    ]
    expected = [100 * float((outputs.argmax(axis) == labels).float().mean()) for axis in (1, 2, 2)]
    assert scores == pytest.approx(expected)


def test_a_batch_that_is_open_takes_the_axis_of_the_others() -> None:
    target = _target(_logits((6, 3, 5)), torch.zeros(6, 3, dtype=torch.long))
    target.class_axis(_logits((6, 3, 5)), torch.zeros(6, 3))
    assert target.class_axis(_logits((6, 5, 5)), torch.zeros(6, 5)) == 2


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        pytest.param(torch.zeros(6, 1).long(), r"\(6, 1\).*squeeze", id="one too many axes"),
        pytest.param(torch.eye(6, 5).long(), r"\(6, 5\).*one-hot.*argmax", id="one-hot"),
        pytest.param(torch.zeros(6), "integer type.*float32", id="floats"),
        pytest.param(torch.arange(6), "from 0 to 5.*5 classes, 0 to 4", id="out of range"),
        pytest.param(torch.arange(6) - 2, "from -2 to 3", id="negative"),
        pytest.param(torch.zeros(6, 2).long(), r"\(6, 2\) do not fit", id="another shape"),
        pytest.param(["cat"] * 6, "integers.*list", id="words"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        _target(_logits((6, 5)), torch.zeros(6).long()).check_labels(_logits((6, 5)), labels)


def test_ignored_labels_count_neither_in_score_nor_in_loss() -> None:
    outputs = _logits((6, 5, 3, 4))
    labels = outputs.argmax(1)
    labels[:, 0] = 255
    labels[:, 1] = (labels[:, 1] + 1) % 5
    target = _target(outputs, labels, ignore_index=255)
    target.check_labels(outputs, labels)
    assert target.score(nn.Identity(), "search") == 50.0
    assert target.sample_scores(outputs, labels).tolist() == [50.0] * 6
    kept = outputs.movedim(1, -1)[:, 1:].flatten(0, 2)
    expected = nn.functional.cross_entropy(kept, labels[:, 1:].flatten())
    torch.testing.assert_close(target.loss(outputs, labels), expected)


def test_subclasses_need_not_call_the_constructor() -> None:
    class Own(ClassificationTarget):
        def __init__(self) -> None:
            data = TensorDataset(_logits((6, 5)), torch.zeros(6).long())
            self._splits = dict.fromkeys(SPLITS, data)

    assert 0.0 <= Own().score(nn.Identity(), "search") <= 100.0
