"""The parquet schema of evaluation records, with its version in the files' metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from rl_compress.runs.record import EvaluationRecord

SCHEMA_VERSION = 3

_WITHOUT_SHARES = 2
"""The version that scored every variant in full, and had no column for it."""

RECORD_SCHEMA = pa.schema(
    [
        ("evaluation_id", pa.int64()),
        ("run", pa.string()),
        ("trial", pa.string()),
        ("worker", pa.int64()),
        ("algorithm", pa.string()),
        ("policy", pa.string()),
        ("policy_id", pa.string()),
        ("realised", pa.string()),
        ("macs", pa.int64()),
        ("params", pa.int64()),
        ("size_bytes", pa.int64()),
        ("bops", pa.int64()),
        ("peak_memory_bytes", pa.int64()),
        ("latency_ms", pa.float64()),
        ("score", pa.float64()),
        ("reward", pa.float64()),
        ("seed", pa.int64()),
        ("wall_s", pa.float64()),
        ("cached", pa.bool_()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("scored_share", pa.float64()),
    ],
    metadata={"rl_compress_schema_version": str(SCHEMA_VERSION)},
)


def to_table(records: Sequence[EvaluationRecord]) -> pa.Table:
    """Return records as an Arrow table, a row each."""
    return pa.Table.from_pylist([asdict(record) for record in records], schema=RECORD_SCHEMA)


def from_table(table: pa.Table) -> list[EvaluationRecord]:
    """Return the rows of an Arrow table as records.

    Raises:
        ValueError: The table has an unknown schema version or lacks columns.
    """
    version = (table.schema.metadata or {}).get(b"rl_compress_schema_version", b"none").decode()
    if version == str(_WITHOUT_SHARES):
        table = table.append_column("scored_share", pa.array([1.0] * len(table), pa.float64()))
    elif version != str(SCHEMA_VERSION):
        raise ValueError(f"schema version {version}, but this release reads {SCHEMA_VERSION}")
    missing = [name for name in RECORD_SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"columns {missing} are missing")
    return [EvaluationRecord(**row) for row in table.select(RECORD_SCHEMA.names).to_pylist()]
