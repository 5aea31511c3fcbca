"""The Pareto front: records that no other record beats in all objectives at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rl_compress.runs.hypervolume import hypervolume
from rl_compress.runs.record import EvaluationRecord

SCORE = "score"
"""The one objective that is better when higher."""


def pareto_front(
    records: Sequence[EvaluationRecord], objectives: Sequence[str]
) -> list[EvaluationRecord]:
    """Return the non-dominated records, in the order given; of equal ones, the first.

    Args:
        records: Evaluated variants; those with an objective that is not finite, or was not
            measured, are left out, and so are those that were not scored in full.
        objectives: ``score`` and names of costs.
    """
    records = [record for record in records if record.scored_in_full]
    points = _points(records, objectives)
    front: list[int] = []
    # Whoever dominates a record, or equals it and is before it, comes before it in this order.
    for index in np.lexsort((np.arange(len(points)), *points.T[::-1])):
        point = points[index]
        if np.isfinite(point).all() and not (points[front] <= point).all(axis=1).any():
            front.append(int(index))
    return [records[index] for index in sorted(front)]


def front_hypervolume(
    records: Sequence[EvaluationRecord],
    objectives: Sequence[str],
    *,
    lowest_score: float,
    original_costs: Mapping[str, float],
) -> float:
    """Return the hypervolume of records, costs being fractions of the uncompressed target's.

    Args:
        records: Evaluated variants, dominated ones or not; those not scored in full are left out.
        objectives: ``score`` and names of costs.
        lowest_score: Score of the reference point; compare only volumes with the same one.
        original_costs: Costs of the uncompressed target, the reference point's.

    Returns:
        The volume, in units of the score where that is among the objectives.
    """
    points = _points([record for record in records if record.scored_in_full], objectives)
    scale = np.array([1.0 if name == SCORE else original_costs[name] for name in objectives])
    reference = [-lowest_score if name == SCORE else 1.0 for name in objectives]
    return hypervolume(points / scale, reference)


def _points(
    records: Sequence[EvaluationRecord], objectives: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return one row a record; lower is better in every column."""
    names = list(objectives)
    rows = [
        [-record.score if name == SCORE else record.costs.get(name, np.nan) for name in names]
        for record in records
    ]
    return np.array(rows, dtype=np.float64).reshape(len(records), len(objectives))
