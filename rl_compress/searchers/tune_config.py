"""The `tune` section of a job: which keys vary, and how."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rl_compress.errors import ConfigError

Sampler = Literal["random", "tpe", "nsga2"]
Logger = Literal["tensorboard", "mlflow", "wandb"]


class Domain(BaseModel):
    """The values of one key; exactly one of these."""

    model_config = ConfigDict(extra="forbid")

    grid: list[Any] | None = Field(
        default=None, min_length=1, description="Every value, combined with all other grids."
    )
    choice: list[Any] | None = Field(
        default=None, min_length=1, description="One of these, drawn for each trial."
    )
    uniform: tuple[float, float] | None = Field(
        default=None, description="A number between two bounds, drawn evenly."
    )
    loguniform: tuple[float, float] | None = Field(
        default=None, description="A number between two bounds above 0, its logarithm drawn evenly."
    )
    randint: tuple[int, int] | None = Field(
        default=None, description="A whole number from the first up to, and without, the second."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Domain:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}, not {given or 'none'}"
            )
        return self

    @field_validator("uniform", "loguniform", "randint")
    @classmethod
    def _increasing(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError("the bounds must be finite, the second above the first")
        return bounds

    @field_validator("loguniform")
    @classmethod
    def _positive(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] <= 0:
            raise ValueError("the bounds must be above 0")
        return bounds

    def examples(self) -> list[Any]:
        """Return values that any trial's must be as valid as: all listed ones, or the bounds."""
        if self.randint is not None:
            return [self.randint[0], self.randint[1] - 1]
        listed = self.grid or self.choice or self.uniform or self.loguniform
        return list(listed or ())


class TuneConfig(BaseModel):
    """A sweep over the job's own keys."""

    model_config = ConfigDict(extra="forbid")

    space: dict[str, Domain] = Field(
        default_factory=dict,
        description="Dotted keys of the job, such as `contribution.alpha`, with their values.",
    )
    trials: int = Field(
        default=1, ge=1, description="Draws of the random keys, each for every point of the grid."
    )
    sampler: Sampler = Field(
        default="random",
        description="Where draws come from. `random`; `tpe`: from what gave the best scores so "
        "far; `nsga2`: from the trials whose delivered variants no other beats in score and all "
        "costs of the Pareto front. The latter two need the extra `optuna`, and no key has a grid.",
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        default="none",
        description="`asha` stops a trial early whose best score is, after as many evaluations, "
        "not among the better third; not with `nsga2`. `pbt` lets a trial of the worst quarter go "
        "on from the records of one of the best, with values moved a little from that one's; it "
        "needs room for several trials at a time, sampler `random`, and no grid.",
    )
    grace_evaluations: int | None = Field(
        default=None,
        ge=1,
        description="Evaluations that `asha` leaves every trial, by default a ninth of all; or "
        "that `pbt` leaves it each time, by default a fifth.",
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, description="Trials at a time; by default as many as there is room for."
    )
    num_gpus_per_driver: float = Field(
        default=0.0,
        ge=0,
        description="GPUs of each trial's own process, which measures sensitivities and "
        "fine-tunes, beside those of its env runners; fractions allowed.",
    )
    loggers: list[Logger] = Field(
        default_factory=list,
        description="Where trials' figures are logged besides: `tensorboard` in `ray/`; `mlflow` "
        "and `wandb` need the extras of these names.",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None,
        description="Where MLflow keeps its runs; by default `mlflow.db` in the sweep's directory.",
    )

    @model_validator(mode="after")
    def _parts_agree(self) -> TuneConfig:
        grids = [key for key, domain in self.space.items() if domain.grid is not None]
        if grids and self.sampler != "random":
            raise ConfigError(
                f"tune.space.{grids[0]}: a grid is run in full, and leaves {self.sampler} nothing "
                f"to draw; write choice instead, or set tune.sampler: random"
            )
        if self.scheduler == "pbt" and (grids or self.sampler != "random"):
            found = f"space.{grids[0]}: a grid" if grids else f"sampler: {self.sampler}"
            raise ConfigError(
                f"tune.{found} leaves pbt nothing to change; write choice instead of grid, and "
                f"sampler: random"
            )
        if self.sampler == "nsga2" and self.scheduler != "none":
            raise ConfigError(
                f"tune.scheduler: {self.scheduler} compares one figure, and nsga2 has several; "
                f"choose none, or tune.sampler: tpe"
            )
        return self
