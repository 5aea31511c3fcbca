"""The parquet schema of evaluation records, with its version in the files' metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from rl_compress.runs.record import EvaluationRecord
from rl_compress.space.budget import COSTS, LATENCY

SCHEMA_VERSION = 3

_WITHOUT_SHARES = 2
"""The version that scored every variant in full, and had no column for it."""

_VERSION, _COSTS = b"rl_compress_schema_version", b"rl_compress_costs"
"""Keys of the metadata: the version, and which columns are costs. Older files do not say the
latter, and have those of :data:`RECORD_SCHEMA`."""

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
        *[(cost, pa.int64()) for cost in COSTS],
        (LATENCY, pa.float64()),
        ("score", pa.float64()),
        ("reward", pa.float64()),
        ("seed", pa.int64()),
        ("wall_s", pa.float64()),
        ("cached", pa.bool_()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("scored_share", pa.float64()),
    ]
)
"""The columns of all records; those of further costs, numbers too, come after them."""

_NAMES = [field.name for field in fields(EvaluationRecord) if field.name != "costs"]


def to_table(records: Sequence[EvaluationRecord]) -> pa.Table:
    """Return records as an Arrow table, a row each; every cost is a column."""
    found = {cost: None for record in records for cost in record.costs}
    further = [cost for cost in found if cost not in RECORD_SCHEMA.names]
    metadata = {_VERSION: str(SCHEMA_VERSION), _COSTS: json.dumps([*COSTS, LATENCY, *further])}
    schema = pa.schema(
        [*RECORD_SCHEMA, *[(cost, pa.float64()) for cost in further]], metadata=metadata
    )
    return pa.Table.from_pylist([_row(record) for record in records], schema=schema)


def from_table(table: pa.Table) -> list[EvaluationRecord]:
    """Return the rows of an Arrow table as records.

    Raises:
        ValueError: The table has an unknown schema version or lacks columns.
    """
    metadata = table.schema.metadata or {}
    version = metadata.get(_VERSION, b"none").decode()
    if version == str(_WITHOUT_SHARES):
        table = table.append_column("scored_share", pa.array([1.0] * len(table), pa.float64()))
    elif version != str(SCHEMA_VERSION):
        raise ValueError(f"schema version {version}, but this release reads {SCHEMA_VERSION}")
    costs = json.loads(metadata[_COSTS]) if _COSTS in metadata else [*COSTS, LATENCY]
    needed = dict.fromkeys([*RECORD_SCHEMA.names, *costs])
    if missing := [name for name in needed if name not in table.column_names]:
        raise ValueError(f"columns {missing} are missing")
    return [_record(row, costs) for row in table.select(list(needed)).to_pylist()]


def _row(record: EvaluationRecord) -> dict[str, Any]:
    # Those that are known before a variant is built are whole numbers.
    costs = {name: int(cost) if name in COSTS else cost for name, cost in record.costs.items()}
    return {**{name: getattr(record, name) for name in _NAMES}, **costs}


def _record(row: dict[str, Any], costs: Sequence[str]) -> EvaluationRecord:
    found = {cost: float(row[cost]) for cost in costs if row[cost] is not None}
    return EvaluationRecord(**{name: row[name] for name in _NAMES}, costs=found)
