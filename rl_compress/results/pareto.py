"""The Pareto front: records that no other record beats in score and in every cost at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_compress.results.record import EvaluationRecord


def pareto_front(
    records: Sequence[EvaluationRecord], costs: Sequence[str]
) -> list[EvaluationRecord]:
    """Return the non-dominated records, in the order given; of equal ones, the first.

    Args:
        records: Evaluated variants.
        costs: Names of the costs to trade against the score.
    """
    if not records:
        return []
    # One row a record; lower is better in every column.
    points = np.array(
        [[-record.score, *(record.costs()[cost] for cost in costs)] for record in records]
    )
    front = []
    for index, point in enumerate(points):
        no_worse = (points <= point).all(axis=1)
        better = no_worse & (points < point).any(axis=1)
        equal_before = no_worse[:index] & (points[:index] == point).all(axis=1)
        if not better.any() and not equal_before.any():
            front.append(records[index])
    return front
