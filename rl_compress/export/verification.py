"""Verification: do the search's scores order variants as their scores after fine-tuning do?

A search compares variants before fine-tuning, for training each would take too long. Whether that
is honest is measured on its best ones: they are fine-tuned as the delivered variant is. Only the
search split is read; the test split stays for the delivered model alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.errors import CorruptFileError
from rl_compress.export.fine_tuned import FineTuned
from rl_compress.policy.compression_policy import CompressionPolicy
from rl_compress.results.record import EvaluationRecord

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        ("policy_id", pa.string()),
        ("policy", pa.string()),
        ("rank", pa.int64()),
        ("search_score", pa.float64()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("seconds", pa.float64()),
    ],
    metadata={"rl_compress_verification_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A variant's scores on the search split, before and after fine-tuning."""

    policy_id: str
    policy: str
    """The policy as JSON."""
    rank: int
    """Place by reward in the search, from 1."""
    search_score: float
    """The objective's score in the search."""
    before: float
    """The target's own score, repaired but not fine-tuned."""
    after: float
    """The target's own score after fine-tuning."""
    seconds: float
    """What it took; of the delivered variant with its test score, latency and export."""


def best_distinct(records: Sequence[EvaluationRecord], count: int) -> list[EvaluationRecord]:
    """Return the records with the highest rewards, one for each realised policy, best first."""
    found: dict[str, EvaluationRecord] = {}
    for record in sorted(records, key=lambda record: (-record.reward, record.evaluation_id)):
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
    known = {row.policy_id: row for row in load_verification(path)}
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
        _save(path, list(known.values()))
    advance(len(records), len(records))
    return rows


def load_verification(path: Path) -> list[Verified]:
    """Return what a run has verified, best rank first; nothing where there is no file.

    Raises:
        CorruptFileError: The file cannot be read, or another release wrote it.
    """
    try:
        table = pq.read_table(path)
        version = (table.schema.metadata or {}).get(b"rl_compress_verification_version", b"none")
        if version.decode() != str(SCHEMA_VERSION):
            raise ValueError(
                f"schema version {version.decode()}, but this release reads {SCHEMA_VERSION}"
            )
        rows = [Verified(**row) for row in table.to_pylist()]
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise CorruptFileError(
            f"{path}: not a readable verification ({error}); remove it to fine-tune again"
        ) from None
    return sorted(rows, key=lambda row: row.rank)


def _save(path: Path, rows: Sequence[Verified]) -> None:
    unfinished = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), unfinished)
    unfinished.rename(path)
