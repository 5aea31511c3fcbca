"""The evaluation record: one variant measured, one row stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rl_compress.space.budget import LATENCY
from rl_compress.space.compression_policy import CompressionPolicy

COLUMNS = ("macs", "params", "size_bytes", "bops", "peak_memory_bytes")
"""Costs with a column of their own, in whole numbers; latency has one too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """What is known of one evaluated variant; detached from all live objects."""

    evaluation_id: int
    """Number within the run, from 0, in the order in which evaluations were granted."""
    run: str
    trial: str
    """Name of the Tune trial; empty outside a sweep."""
    worker: int
    """Index of the env runner; 0 is the driver."""
    algorithm: str
    policy: str
    """The candidate as asked for, as JSON."""
    policy_id: str
    """Hash of the realised policy: equal variants share it."""
    realised: str
    """The policy really carried out, after rounding and projection, as JSON."""
    macs: int
    """MACs per sample."""
    params: int
    size_bytes: int
    """Bytes of the tensors in the variant's file."""
    bops: int
    """Bit operations per sample: MACs times weight bits times activation bits."""
    peak_memory_bytes: int
    """Most bytes of activations alive at once in a forward pass of one sample."""
    latency_ms: float | None
    """Median milliseconds of a forward pass; None where it was not measured."""
    score: float
    """The objective's score on the search split; higher is better."""
    reward: float
    seed: int
    wall_s: float
    """Seconds that the evaluation took."""
    cached: bool
    """Whether the figures come from an evaluation made elsewhere, such as another trial."""
    time: datetime
    """When the evaluation ended, in UTC."""
    scored_share: float = 1.0
    """Share of the search split that was scored; below 1 the variant was dropped as worse than the
    best, and its score and reward are estimates."""
    other_costs: tuple[tuple[str, float], ...] = ()
    """Costs without a column, such as the user's own, by name."""

    @property
    def scored_in_full(self) -> bool:
        """Say whether the score is of the whole search split, so that the variant may be chosen."""
        return self.scored_share == 1.0

    def costs(self) -> dict[str, float]:
        """Return the costs by name, latency only where it was measured."""
        costs = {name: float(getattr(self, name)) for name in COLUMNS} | dict(self.other_costs)
        return costs if self.latency_ms is None else {**costs, LATENCY: self.latency_ms}

    @staticmethod
    def of_costs(costs: Mapping[str, float]) -> dict[str, Any]:
        """Return the fields that hold a variant's costs, but for its latency."""
        others = [(name, float(costs[name])) for name in costs if name not in (*COLUMNS, LATENCY)]
        return {**{name: int(costs[name]) for name in COLUMNS}, "other_costs": tuple(others)}

    def realised_policy(self) -> CompressionPolicy:
        """Return the policy that was carried out."""
        return CompressionPolicy.from_json(self.realised, source=f"record {self.evaluation_id}")
