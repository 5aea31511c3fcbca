"""The parquet schema of evaluation records, with its version in the files' metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from rl_compress.runs.record import COLUMNS, EvaluationRecord

SCHEMA_VERSION = 4

_ADDED: dict[str, tuple[int, pa.DataType, Any]] = {
    "scored_share": (3, pa.float64(), 1.0),
    "other_costs": (4, pa.map_(pa.string(), pa.float64()), []),
}
"""Columns that the first version did not have: since when there are, and what they held before."""

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
        *((cost, pa.int64()) for cost in COLUMNS),
        ("latency_ms", pa.float64()),
        ("score", pa.float64()),
        ("reward", pa.float64()),
        ("seed", pa.int64()),
        ("wall_s", pa.float64()),
        ("cached", pa.bool_()),
        ("time", pa.timestamp("us", tz="UTC")),
        *((name, kind) for name, (_, kind, _) in _ADDED.items()),
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
    if version not in map(str, range(2, SCHEMA_VERSION + 1)):
        raise ValueError(f"schema version {version}, but this release reads {SCHEMA_VERSION}")
    for name, (since, kind, value) in _ADDED.items():
        if int(version) < since:
            table = table.append_column(name, pa.array([value] * len(table), kind))
    missing = [name for name in RECORD_SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"columns {missing} are missing")
    rows = table.select(RECORD_SCHEMA.names).to_pylist()
    return [EvaluationRecord(**row | {"other_costs": tuple(row["other_costs"] or ())}) for row in rows]
