"""The `contribution` section of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["constant", "increasing", "decreasing", "inverse"]


class ContributionConfig(BaseModel):
    """How units win or lose their place by what they contribute."""

    model_config = ConfigDict(extra="forbid")

    alpha: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Factor by which the keep-ratio of a unit shrinks in an iteration.",
    )
    schedule: Schedule = Field(
        default="constant",
        description="The factor in iteration t = 0, 1, …: `constant` a; `increasing` "
        "1 - (1 - a) / (t + 1); `decreasing` a^(t + 1); `inverse` 1 / (t + 1), whatever a is.",
    )
    threshold: float = Field(
        default=1e-3,
        allow_inf_nan=False,
        description="Contribution, in units of the training loss, up to which a unit shrinks.",
    )
    epsilon: float = Field(
        default=1e-3,
        ge=0,
        allow_inf_nan=False,
        description="At the end units are cut whose largest weight, times the keep-ratio, is below "
        "this.",
    )
    shrinkage: Literal["hard", "soft"] = Field(
        default="hard",
        description="With sparse structures. `hard`: what stays keeps its weights; `soft`: it "
        "comes closer to zero by epsilon.",
    )
    iterations: int = Field(default=10, ge=1, description="Most measurements of all units.")
    patience: int = Field(
        default=3,
        ge=1,
        description="End when the units kept have been the same for this many iterations, and all "
        "others have shrunk below epsilon.",
    )
    exact_units: int = Field(
        default=256,
        ge=0,
        description="Up to this many units each is left out in turn; beyond, their contributions "
        "are estimated from gradients.",
    )
    samples: int = Field(
        default=256, ge=1, description="Samples of the calibration split that are used."
    )
    finetune_steps: int = Field(
        default=0, ge=0, description="Training steps between two iterations."
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, allow_inf_nan=False, description="Of those steps (AdamW)."
    )

    def alpha_at(self, iteration: int) -> float:
        """Return the factor in an iteration, counted from 0; always in (0, 1]."""
        match self.schedule:
            case "increasing":
                return 1 - (1 - self.alpha) / (iteration + 1)
            case "decreasing":
                return max(self.alpha ** (iteration + 1), 1e-300)
            case "inverse":
                return 1 / (iteration + 1)
            case _:
                return self.alpha
