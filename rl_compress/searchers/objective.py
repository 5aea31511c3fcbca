"""The objective: what the search maximises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rl_compress.evaluation.adversarial import RobustnessConfig
from rl_compress.evaluation.scores import ScoreName
from rl_compress.registry import COSTS, Options
from rl_compress.runs.pareto import SCORE
from rl_compress.space.budget import LATENCY


class ObjectiveConfig(BaseModel):
    """The `objective` section of a job."""

    model_config = ConfigDict(extra="forbid")

    score: ScoreName = Field(
        default="fidelity",
        description=(
            "`fidelity`: closeness to the uncompressed model's outputs, no labels needed; the "
            "target's own score by its name, such as `accuracy` or `r2`; or `robust_accuracy`: "
            "that score on inputs crafted against the variant; or a class of your own derived from "
            "rl_compress.evaluation.scores.Score, as `package.module:Class`."
        ),
    )
    score_options: Options = Field(
        default_factory=dict,
        description="Options of a `score` of your own, or those of `robust_accuracy`.",
    )
    weights: dict[str, float] = Field(
        default_factory=lambda: {"score": 1.0},
        description=(
            "Weights of the reward: `score`, and for a trade-off each cost's saved fraction "
            f"({', '.join(COSTS.built_in)}, or your own as `package.module:Class`)."
        ),
    )
    robustness: RobustnessConfig = Field(
        default_factory=RobustnessConfig,
        description="Options of `robust_accuracy`, if not in `score_options`.",
    )
    pareto: list[str] | None = Field(
        default=None,
        min_length=2,
        max_length=3,
        description=(
            "Two or three of `score` and the costs, kept apart: the run's Pareto front and "
            "hypervolume are over them; by default the score and the budgeted costs."
        ),
    )

    @field_validator("weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        _refuse_unknown(weights)
        if not all(math.isfinite(weight) for weight in weights.values()):
            raise ValueError("weights must be finite numbers")
        return {SCORE: 1.0, **weights}

    @field_validator("pareto")
    @classmethod
    def _distinct(cls, objectives: list[str] | None) -> list[str] | None:
        if objectives is not None:
            _refuse_unknown(objectives)
            if len(set(objectives)) < len(objectives):
                raise ValueError("an objective is named twice")
        return objectives

    @property
    def options_of_score(self) -> Options:
        """Return the score's options; `robust_accuracy` had a section of its own for them."""
        if self.score == "robust_accuracy" and not self.score_options:
            return self.robustness.model_dump()
        return self.score_options

    @property
    def needs_latency(self) -> bool:
        """Say whether the latency of every variant is to be measured."""
        return LATENCY in self.weights or LATENCY in (self.pareto or ())

    def objectives(self, budgeted: Iterable[str]) -> list[str]:
        """Return what the Pareto front is over.

        Args:
            budgeted: The costs that the budget bounds.
        """
        return self.pareto or [SCORE, *budgeted]


def _refuse_unknown(names: Iterable[str]) -> None:
    if unknown := sorted({name for name in names if name != SCORE and name not in COSTS}):
        known = ", ".join((SCORE, *COSTS.built_in))
        raise ValueError(
            f"unknown term(s) {unknown}; choose from {known}, or your own as package.module:Class"
        )


class Objective:
    """The reward of a measured variant."""

    def __init__(self, config: ObjectiveConfig, original: Mapping[str, float]) -> None:
        """Keep the weights and the uncompressed target's costs."""
        self._weights = config.weights
        self._original = dict(original)

    def __call__(self, score: float, costs: Mapping[str, float]) -> float:
        """Return ``w_score * score + sum_c w_c * (1 - cost_c / original_c)``."""
        reward = self._weights[SCORE] * score
        for cost, weight in self._weights.items():
            if cost != SCORE:
                reward += weight * (1.0 - costs[cost] / self._original[cost])
        return reward
