"""Evaluation records for tests: sensible values for all that a test does not care about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rl_compress.runs.record import EvaluationRecord

_COSTS = {
    "macs": 1000,
    "params": 100,
    "size_bytes": 400,
    "bops": 1_024_000,
    "peak_memory_bytes": 64,
}


def make_record(evaluation_id: int = 0, **fields: Any) -> EvaluationRecord:
    """Make a record; the reward is the score, and the realised policy the policy, unless given.

    Costs may be given one by one, too.
    """
    values: dict[str, Any] = {
        "run": "run",
        "trial": "",
        "worker": 0,
        "algorithm": "random",
        "policy": "{}",
        "policy_id": str(evaluation_id),
        "costs": {name: float(fields.pop(name, cost)) for name, cost in _COSTS.items()},
        "score": 0.0,
        "seed": 0,
        "wall_s": 0.1,
        "cached": False,
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    }
    if (latency := values.pop("latency_ms", None)) is not None:
        values["costs"] = {**values["costs"], "latency_ms": latency}
    values.setdefault("reward", values["score"])
    values.setdefault("realised", values["policy"])
    return EvaluationRecord(evaluation_id=evaluation_id, **values)
