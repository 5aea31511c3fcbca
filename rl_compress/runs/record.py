"""The evaluation record: one variant measured, one row stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rl_compress.space.compression_policy import CompressionPolicy


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
    costs: Mapping[str, float]
    """What the variant costs, by name; the latency only where it was measured or predicted."""
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

    @property
    def scored_in_full(self) -> bool:
        """Say whether the score is of the whole search split, so that the variant may be chosen."""
        return self.scored_share == 1.0

    def realised_policy(self) -> CompressionPolicy:
        """Return the policy that was carried out."""
        return CompressionPolicy.from_json(self.realised, source=f"record {self.evaluation_id}")
