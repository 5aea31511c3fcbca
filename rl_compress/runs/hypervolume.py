"""Hypervolume: how much of the space of outcomes a set of records dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def hypervolume(
    points: npt.ArrayLike, reference: Sequence[float] | npt.NDArray[np.float64]
) -> float:
    """Measure the region that points dominate, up to a reference point.

    The volume of the union of the boxes between each point and the reference (Zitzler and Thiele,
    "Multiobjective Evolutionary Algorithms", IEEE TEC 1999, section III), lower being better in
    every coordinate. Computed by slicing along the last coordinate, in O(n^d log n): exact, and
    quick for the fronts of two or three objectives that it is meant for.

    Args:
        points: Shape ``(num_points, num_objectives)``; those that are not better than the
            reference everywhere, or not finite, add nothing.
        reference: The worst acceptable outcome, shape ``(num_objectives,)``.

    Returns:
        The volume, in the product of the objectives' units.
    """
    worst = np.asarray(reference, dtype=np.float64)
    found = np.asarray(points, dtype=np.float64).reshape(-1, len(worst))
    inside = np.isfinite(found).all(axis=1) & (found < worst).all(axis=1)
    return _volume(np.unique(found[inside], axis=0), worst)


def _volume(points: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    if len(points) == 0:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - points.min())
    # Between two neighbouring values of the last objective the slice does not change: it is what
    # the points below dominate in the other objectives.
    points = points[np.argsort(points[:, -1], kind="stable")]
    levels = np.append(points[:, -1], reference[-1])
    return sum(
        float(levels[count] - levels[count - 1]) * _volume(points[:count, :-1], reference[:-1])
        for count in range(1, len(points) + 1)
        if levels[count] > levels[count - 1]
    )
