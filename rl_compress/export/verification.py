"""Verification: do the search's scores order variants as their scores after fine-tuning do?

A search compares variants before fine-tuning, for training each would take too long. Whether that
is honest is measured on its best ones: they are fine-tuned as the delivered variant is. Only the
search split is read; the test split stays for the delivered model alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rl_compress.export.fine_tuned import FineTuned
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.verified import Verified, load_verified, save_verified
from rl_compress.space.compression_policy import CompressionPolicy


def best_distinct(
    records: Sequence[EvaluationRecord],
    count: int,
    ranking: Mapping[str, float] = MappingProxyType({}),
) -> list[EvaluationRecord]:
    """Return the records with the highest rewards, one for each realised policy, best first.

    Those that were not scored in full are left out.

    Args:
        records: Of a search.
        count: How many to return at most.
        ranking: Rewards in float32 by policy id, where others are in less: those come first.
    """

    def key(record: EvaluationRecord) -> tuple[bool, float, int]:
        exact = ranking.get(record.policy_id)
        return exact is None, -(record.reward if exact is None else exact), record.evaluation_id

    found: dict[str, EvaluationRecord] = {}
    complete = (record for record in records if record.scored_in_full)
    for record in sorted(complete, key=key):
        found.setdefault(record.policy_id, record)
    return list(found.values())[:count]


def verify(
    path: Path,
    records: Sequence[EvaluationRecord],
    *,
    delivered: Mapping[str, tuple[float, float, float]],
    fine_tune: Callable[[CompressionPolicy], FineTuned],
    score: Callable[[FineTuned], float],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Verified]:
    """Fine-tune variants and score them; those that the file holds already are not repeated.

    Args:
        path: The file, written whole after every variant.
        records: The variants, best first.
        delivered: By policy id what is known already: scores before and after, and seconds.
        fine_tune: Makes a variant as it would be delivered.
        score: Scores it on the search split.
        advance: Hears of the variants done, and their number.

    Raises:
        CorruptFileError: The file is there and cannot be read.
    """
    known = {row.policy_id: row for row in load_verified(path)}
    rows: list[Verified] = []
    for rank, record in enumerate(records, start=1):
        advance(rank - 1, len(records))
        if record.policy_id in known:
            found = known[record.policy_id]
            before, after, seconds = found.before, found.after, found.seconds
        elif record.policy_id in delivered:
            before, after, seconds = delivered[record.policy_id]
        else:
            start = time.perf_counter()
            variant = fine_tune(record.realised_policy())
            before, after = variant.before, score(variant)
            seconds = time.perf_counter() - start
        rows.append(
            Verified(
                policy_id=record.policy_id,
                policy=record.realised,
                rank=rank,
                search_score=record.score,
                before=before,
                after=after,
                seconds=seconds,
            )
        )
        known[record.policy_id] = rows[-1]
        save_verified(path, list(known.values()))
    advance(len(records), len(records))
    return rows
