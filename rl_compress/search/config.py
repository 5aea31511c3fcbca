"""The `search` section of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from rl_compress.errors import ConfigError
from rl_compress.search.env import Episode

RLAlgorithm = Literal["ppo", "sac"]
Algorithm = Literal[
    "ppo",
    "sac",
    "uniform",
    "global",
    "random",
    "greedy",
    "evolution",
    "greedy_evolution",
    "tpe",
    "cmaes",
    "contribution",
]
Network = Literal["prior", "article", "rllib"]

BASELINES = (
    "uniform",
    "global",
    "random",
    "greedy",
    "evolution",
    "greedy_evolution",
    "tpe",
    "cmaes",
    "contribution",
)


class PPOSettings(BaseModel):
    """Proximal policy optimisation (Schulman et al., 2017), run by RLlib."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(default=1e-2, gt=0, description="Adam step size.")
    episodes_per_update: int = Field(
        default=10, ge=1, description="Candidates evaluated between two updates, over all runners."
    )
    num_epochs: int = Field(default=20, ge=1, description="Passes over the candidates per update.")
    clip_param: float | None = Field(
        default=None,
        gt=0,
        description="Largest change of an action's probability ratio; by default 0.3, and 1.0 with "
        "masks, whose probability is a product over all units.",
    )
    initial_spread: float = Field(
        default=0.27,
        gt=0,
        le=1,
        description="Standard deviation of the first actions, in units of `residual_scale`.",
    )
    entropy_coeff: float = Field(default=0.0, ge=0, description="Weight of the entropy bonus.")


class SACSettings(BaseModel):
    """Soft actor-critic (Haarnoja et al., 2018), run by RLlib."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(default=1e-3, gt=0, description="Adam step size, all networks.")
    warmup_episodes: int = Field(default=10, ge=1, description="Candidates before learning starts.")
    batch_size: int = Field(default=64, ge=1, description="Decisions per gradient step.")


class MaskSettings(BaseModel):
    """Episodes of a search with `space.action: mask`."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(
        default=4,
        ge=1,
        description="Masks per episode, each applied to what the one before it left, and each "
        "evaluated; `episode` has no meaning for masks.",
    )


class SearchConfig(BaseModel):
    """How candidates are found, and on how many processes they are evaluated."""

    model_config = ConfigDict(extra="forbid")

    algorithm: Algorithm = Field(
        default="ppo",
        description="`ppo` and `sac` learn; the others are baselines under the same conditions. "
        "`tpe` and `cmaes` need the extra `optuna`.",
    )
    evaluations: int = Field(
        default=200, ge=1, description="Distinct variants measured on the search split, exactly."
    )
    num_env_runners: int = Field(
        default=2, ge=1, description="Remote rollout actors, each with a replica of the target."
    )
    num_cpus_per_env_runner: float = Field(default=1.0, ge=0, description="CPUs per env runner.")
    num_gpus_per_env_runner: float = Field(
        default=0.0, ge=0, description="GPUs per env runner, fractions allowed."
    )
    seed: int = Field(default=0, ge=0, description="Same seed, same search.")
    prior: Literal["sensitivity", "none"] = Field(
        default="sensitivity",
        description=(
            "`sensitivity`: the agent moves away from what the sensitivity curves recommend; "
            "`none`: it chooses ratios outright, as AMC does."
        ),
    )
    sensitivity_levels: int = Field(
        default=4,
        ge=1,
        description=(
            "Variants measured for the sensitivity curves, per group on average (one less per "
            "decision of bits); they go where the curves are least known."
        ),
    )
    episode: Episode = Field(
        default="whole",
        description="`whole`: one step for all groups; `layerwise`: a step for each group.",
    )
    residual_scale: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Largest change of a group's kept fraction against the prior's.",
    )
    screening: bool | None = Field(
        default=None,
        description="Whether a reward predictor, learned from the run's records, improves each "
        "proposal of the agent before it is evaluated, and actions are relative to the best "
        "variant so far; by default with `prior: sensitivity` and `episode: whole`.",
    )
    network: Network | None = Field(
        default=None,
        description="Networks of `ppo`. `prior`: RLlib's, starting at the prior; `article`: a "
        "policy network with sigmoid outputs, and a reward network of its own that predicts the "
        "return; `rllib`: RLlib's untouched. By default `article` with masks, else `prior`.",
    )
    gamma: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Discount of rewards, per step of an episode; by default 1, and 0.1 with "
        "masks, where every step has its own reward.",
    )
    convergence: int | None = Field(
        default=None,
        ge=1,
        description="End the search when this many evaluations brought no better reward; by "
        "default all are made.",
    )
    mask: MaskSettings = Field(
        default_factory=MaskSettings, description="Used with `space.action: mask`."
    )
    ppo: PPOSettings = Field(default_factory=PPOSettings, description="Used by `ppo`.")
    sac: SACSettings = Field(default_factory=SACSettings, description="Used by `sac`.")

    @field_validator("network")
    @classmethod
    def _networks_are_for_ppo(cls, network: Network | None, info: ValidationInfo) -> Network | None:
        if network is not None and info.data.get("algorithm") == "sac":
            raise ValueError("only ppo has a choice of networks; leave it out with sac")
        return network

    def check_action(self, action: Literal["ratio", "mask"]) -> None:
        """Make sure that the algorithm can decide what the job's `space.action` asks for.

        Raises:
            ConfigError: SAC is asked to decide masks.
        """
        if action == "mask" and self.algorithm == "sac":
            raise ConfigError(
                "search.algorithm: sac decides numbers and cannot decide masks; "
                "choose ppo, or space.action: ratio"
            )

    @property
    def learns(self) -> bool:
        """Say whether the algorithm is one of RLlib's."""
        return self.algorithm not in BASELINES

    @property
    def screens(self) -> bool:
        """Say whether proposals are screened."""
        if self.screening is not None:
            return self.screening
        return self.learns and self.prior == "sensitivity" and self.episode == "whole"

    @property
    def needs_curves(self) -> bool:
        """Say whether the sensitivity curves are to be measured."""
        if self.learns:
            return self.prior == "sensitivity"
        return self.algorithm in ("greedy", "greedy_evolution")
