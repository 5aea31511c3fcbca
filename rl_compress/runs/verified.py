"""Variants that were fine-tuned to verify a search, and their file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.errors import CorruptFileError
from rl_compress.runs.written import whole

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


def load_verified(path: Path) -> list[Verified]:
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


def save_verified(path: Path, rows: Sequence[Verified]) -> None:
    """Write the file whole."""
    with whole(path) as file:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), file)
