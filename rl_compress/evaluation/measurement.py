"""What an evaluation finds, and the record that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rl_compress.runs.record import EvaluationRecord
from rl_compress.space.compression_policy import CompressionPolicy


@dataclass(frozen=True, slots=True)
class Measurement:
    """What an evaluation found."""

    score: float
    costs: Mapping[str, float]
    """By name; the latency measured, or else predicted, where either was asked for."""
    wall_s: float
    scored_share: float = 1.0
    """Share of the search split that was scored; below 1 the score is an estimate."""
    cached: bool = False
    """Whether another trial of the sweep made the measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What every record says of where it comes from."""

    run: str = ""
    trial: str = ""
    algorithm: str = ""
    seed: int = 0


def make_record(
    found: Measurement,
    policy: CompressionPolicy,
    identity: RunIdentity,
    *,
    worker: int,
    evaluation_id: int = -1,
    candidate: str | None = None,
    reward: float = float("nan"),
) -> EvaluationRecord:
    """Return the record of a variant that was measured just now.

    Args:
        found: What was found.
        policy: The policy that was carried out.
        identity: Where the record comes from.
        worker: Index of the worker that measured; 0 is the driver.
        evaluation_id: As granted; by default whoever stores the record gives it one.
        candidate: The policy that was asked for, as JSON; by default the one carried out.
        reward: Of the search's objective, where it is for one.
    """
    realised = policy.to_json()
    return EvaluationRecord(
        evaluation_id=evaluation_id,
        run=identity.run,
        trial=identity.trial,
        worker=worker,
        algorithm=identity.algorithm,
        policy=candidate or realised,
        policy_id=policy.policy_id,
        realised=realised,
        costs={cost: float(value) for cost, value in found.costs.items()},
        score=found.score,
        reward=reward,
        seed=identity.seed,
        wall_s=found.wall_s,
        cached=found.cached,
        time=datetime.now(UTC),
        scored_share=found.scored_share,
    )
