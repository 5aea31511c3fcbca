"""The objective: what the search maximises."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rl_compress.evaluation.scores import ScoreName
from rl_compress.policy.budget import COSTS


class ObjectiveConfig(BaseModel):
    """The `objective` section of a job."""

    model_config = ConfigDict(extra="forbid")

    score: ScoreName = Field(
        default="fidelity",
        description=(
            "`fidelity`: minus the KL divergence from the uncompressed model's outputs, no labels "
            "needed; `accuracy`: the target's own score."
        ),
    )
    weights: dict[str, float] = Field(
        default_factory=lambda: {"score": 1.0},
        description=(
            "Weights of the reward: `score`, and for a trade-off each cost's saved fraction."
        ),
    )

    @field_validator("weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        unknown = set(weights) - {"score", *COSTS}
        if unknown:
            raise ValueError(
                f"unknown term(s) {sorted(unknown)}; choose from score, {', '.join(COSTS)}"
            )
        return {"score": 1.0, **weights}


class Objective:
    """The reward of a measured variant."""

    def __init__(self, config: ObjectiveConfig, original: Mapping[str, int]) -> None:
        """Keep the weights and the uncompressed target's costs."""
        self._weights = config.weights
        self._original = dict(original)

    def __call__(self, score: float, costs: Mapping[str, int]) -> float:
        """Return ``w_score * score + sum_c w_c * (1 - cost_c / original_c)``."""
        reward = self._weights["score"] * score
        for cost, weight in self._weights.items():
            if cost != "score":
                reward += weight * (1.0 - costs[cost] / self._original[cost])
        return reward
