"""Classes: along which axis of a model's outputs they lie, and which labels can be theirs.

Outputs have one score for each class of each prediction, labels the class of each prediction. So
the labels have the outputs' shape without one axis, which is that of the classes: ``(B, C)`` with
``(B,)``, images ``(B, C, H, W)`` with ``(B, H, W)``, sequences ``(B, T, C)`` with ``(B, T)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rl_compress.errors import TargetError


def find_class_axis(outputs: Sequence[int], labels: Sequence[int], given: int | None = None) -> int:
    """Return the axis of the outputs that counts classes, from 1 on.

    Args:
        outputs: Shape of the outputs, batch first.
        labels: Shape of their labels, batch first.
        given: The axis, where it is known; the labels must fit it.

    Raises:
        TargetError: No axis fits the labels, or several do.
    """
    outputs, labels = tuple(outputs), tuple(labels)
    fits = [axis for axis in range(1, len(outputs)) if _without(outputs, axis) == labels]
    if given is not None:
        fits = [axis for axis in fits if axis == normalised(given, len(outputs))]
    if not fits:
        raise TargetError(f"target: {_misfit(outputs, labels, given)}")
    if len(fits) > 1:
        raise TargetError(
            f"target: outputs {outputs} and labels {labels} leave open which of the axes "
            f"{', '.join(map(str, fits))} counts classes; give class_axis to ClassificationTarget"
        )
    return fits[0]


def normalised(axis: int, num_axes: int) -> int:
    """Return an axis counted from the front.

    Raises:
        TargetError: The outputs have no such axis, or it is the batch's.
    """
    found = axis + num_axes if axis < 0 else axis
    if not 0 < found < num_axes:
        raise TargetError(
            f"target: class_axis: outputs with {num_axes} axes, batch first, have no class axis "
            f"{axis}"
        )
    return found


def class_indices(labels: Any) -> Tensor:
    """Return labels as the int64 indices that torch's losses want.

    Raises:
        TargetError: They are no integers.
    """
    if not isinstance(labels, Tensor):
        raise TargetError(
            f"target: labels must be integers, one for each prediction, but a batch of them is of "
            f"type {type(labels).__name__}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise TargetError(
            f"target: labels must be class indices of an integer type, but are {labels.dtype}; "
            f"convert them in the dataset, or implement a Target with a loss and score of its own"
        )
    return labels.long()


def check_range(labels: Tensor, num_classes: int, ignored: int) -> None:
    """Make sure that labels are indices of classes.

    Args:
        labels: As :func:`class_indices` returns them, any shape.
        num_classes: Length of the outputs' class axis.
        ignored: The label of what has none.

    Raises:
        TargetError: One is negative, or has no class.
    """
    counted = labels[labels != ignored]
    if not counted.numel():
        return
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= num_classes:
        raise TargetError(
            f"target: labels range from {low} to {high}, but the model's outputs have "
            f"{num_classes} classes, 0 to {num_classes - 1}; number the classes from 0 on, or "
            f"build the model with more of them"
        )


def _misfit(outputs: tuple[int, ...], labels: tuple[int, ...], given: int | None) -> str:
    """Say what is wrong with labels that fit no axis of the outputs."""
    said = f"labels of shape {labels} do not fit outputs of shape {outputs}"
    if given is not None:
        said += f" with class_axis {given}"
    if labels == outputs:
        return f"{said}: they are one-hot, or scores; give class indices (labels.argmax(…))"
    if labels[-1:] == (1,) and len(labels) == len(outputs):
        return f"{said}: drop their last axis (labels.squeeze(-1))"
    return f"{said}: they need the outputs' shape without the axis that counts classes"


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
