"""The `search` section of a job."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from rl_compress.agent.budget_handling import BudgetHandling
from rl_compress.errors import ConfigError
from rl_compress.registry import SEARCHERS, Options
from rl_compress.searchers.searcher import Needs

RLAlgorithm = Literal["ppo", "appo", "sac", "tqc"]
_LEARNING: tuple[str, ...] = get_args(RLAlgorithm)
Algorithm = Annotated[
    str, WithJsonSchema({"type": "string", "examples": [*_LEARNING, *SEARCHERS.built_in]})
]
Episode = Literal["layerwise", "whole"]
Network = Literal["prior", "article", "rllib"]


class PPOSettings(BaseModel):
    """Proximal policy optimisation (Schulman et al., 2017), run by RLlib."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Adam step size; by default 1e-4 where proposals are screened, for an "
        "episode's reward is then that of a variant beside the one proposed, else 1e-2.",
    )
    episodes_per_update: int | None = Field(
        default=None,
        ge=1,
        description="Candidates evaluated between two updates, over all runners; by default 4 "
        "where proposals are screened, for the reward predictor then learns too, else 10.",
    )
    num_epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the candidates per update; by default 10 where proposals are "
        "screened, else 20.",
    )
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


class APPOSettings(BaseModel):
    """Asynchronous PPO (Luo et al., "IMPACT", 2020), run by RLlib."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(default=1e-2, gt=0, description="Adam step size.")
    episodes_per_update: int = Field(
        default=10, ge=1, description="Candidates per update, from whichever runners have them."
    )
    num_epochs: int = Field(default=10, ge=1, description="Passes over the candidates per update.")
    clip_param: float = Field(
        default=0.3, gt=0, description="Largest change of an action's probability ratio."
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
    updates_per_decision: float = Field(
        default=1.0,
        gt=0,
        description="Gradient steps per decision sampled; AMC and HAQ make one.",
    )
    initial_alpha: float = Field(
        default=0.1,
        gt=0,
        description="Weight of the entropy bonus at first, which the algorithm then adapts; good "
        "and bad variants differ by about 1 in the reward.",
    )


class TQCSettings(SACSettings):
    """Truncated quantile critics (Kuznetsov et al., 2020), run by RLlib."""

    num_quantiles: int = Field(
        default=25, ge=2, description="Quantiles of the return that each of two critics predicts."
    )
    dropped_quantiles: int = Field(
        default=2,
        ge=0,
        description="Of these, the highest that the target leaves out, against overestimation.",
    )

    @field_validator("dropped_quantiles")
    @classmethod
    def _some_are_left(cls, dropped: int, info: ValidationInfo) -> int:
        if dropped >= info.data.get("num_quantiles", dropped + 1):
            raise ValueError("must be below num_quantiles")
        return dropped


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
        description="`ppo`, `appo` (asynchronous), `sac` and `tqc` learn; baselines under the same "
        f"conditions are {', '.join(SEARCHERS.built_in)} (`tpe` and `cmaes` need the extra "
        "`optuna`), and classes of your own derived from rl_compress.searchers.searcher.Searcher, "
        "as `package.module:Class`.",
    )
    algorithm_options: Options = Field(
        default_factory=dict, description="Options of an `algorithm` of your own."
    )
    evaluations: int = Field(
        default=200, ge=1, description="Distinct variants measured on the search split, exactly."
    )
    num_env_runners: int = Field(
        default=2, ge=1, description="Remote rollout actors, each with a replica of the target."
    )
    num_cpus_per_env_runner: float = Field(default=1.0, ge=0, description="CPUs per env runner.")
    num_gpus_per_env_runner: float | None = Field(
        default=None,
        ge=0,
        description="GPUs per env runner, fractions allowed; by default the runners share the GPUs "
        "that are free when the search begins. Give it for clusters that grow, and in sweeps, "
        "where the default is none.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Same seed, same search; not with `appo`, which learns from whatever comes "
        "first.",
    )
    prior: Literal["sensitivity", "none"] = Field(
        default="sensitivity",
        description=(
            "`sensitivity`: the agent moves away from what the sensitivity curves recommend; "
            "`none`: it chooses ratios and bits outright, as AMC and HAQ do."
        ),
    )
    budget_handling: BudgetHandling | None = Field(
        default=None,
        description=(
            "How the agent's decisions meet the budget. `projection`: all are scaled together; "
            "`clip`: each is lowered so far that the smallest choices for all that follow still "
            "meet it (AMC); `decrement`: after all decisions, they are lowered one by one from the "
            "last layer to the first (HAQ). By default `projection`, and `clip` without a prior."
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
    learning: bool = Field(
        default=True,
        description="`false`: the agent draws its proposals as before, but never learns from their "
        "rewards; nothing else changes, so that a study can show what learning adds.",
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
    budgets: list[dict[str, float | str]] = Field(
        default_factory=list,
        description="Further budgets, each as the job's `budget`, that the agent is trained for "
        "besides the job's own, which decides what is delivered; `rl-compress compress --run DIR "
        "--budget` takes the policy for another one. Where all bound the same single cost, budgets "
        "between them are met too.",
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
    appo: APPOSettings = Field(default_factory=APPOSettings, description="Used by `appo`.")
    sac: SACSettings = Field(default_factory=SACSettings, description="Used by `sac`.")
    tqc: TQCSettings = Field(default_factory=TQCSettings, description="Used by `tqc`.")

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, name: str) -> str:
        if name not in _LEARNING:
            SEARCHERS.path(name, also=_LEARNING)
        return name

    @field_validator("algorithm_options")
    @classmethod
    def _of_no_section(cls, options: Options, info: ValidationInfo) -> Options:
        if options and (name := info.data.get("algorithm")) in _LEARNING:
            raise ValueError(f"the options of {name} are in search.{name}; leave these out")
        return options

    @field_validator("network")
    @classmethod
    def _networks_are_for_ppo(cls, network: Network | None, info: ValidationInfo) -> Network | None:
        algorithm = info.data.get("algorithm")
        if network is not None and algorithm in ("appo", "sac", "tqc"):
            raise ValueError(f"only ppo has a choice of networks; leave it out with {algorithm}")
        return network

    def check_action(self, action: Literal["ratio", "mask"]) -> None:
        """Make sure that the search can decide what the job's `space.action` asks for.

        Raises:
            ConfigError: Another algorithm of RLlib's than PPO is asked to decide masks, or masks
                are to meet the budget in another way than by projection.
        """
        if action != "mask":
            return
        if self.algorithm in ("appo", "sac", "tqc"):
            raise ConfigError(
                f"search.algorithm: {self.algorithm} decides numbers and cannot decide masks; "
                "choose ppo, or space.action: ratio"
            )
        if self.budget_handling not in (None, "projection"):
            raise ConfigError(
                f"search.budget_handling: masks are projected onto the budget, and cannot "
                f"{self.budget_handling}; leave it out, or choose space.action: ratio"
            )

    def check_budgets(self, action: Literal["ratio", "mask"], *, racing: bool) -> None:
        """Make sure that the search can be for several budgets, if it is to be.

        Raises:
            ConfigError: Nothing learns from other budgets, masks are decided, or variants are
                raced, and those of tight budgets would be dropped against those of loose ones.
        """
        if not self.budgets:
            return
        if not all(self.budgets):
            raise ConfigError(
                "search.budgets: each must have at least one bound; remove empty ones"
            )
        if not self.learns:
            raise ConfigError(
                f"search.budgets: {self.algorithm} does not learn and is for one budget; choose "
                "ppo, or leave them out"
            )
        if action == "mask":
            raise ConfigError(
                "search.budgets: masks are decided for one budget; leave them out, or choose "
                "space.action: ratio"
            )
        if racing:
            raise ConfigError(
                "search.budgets: variants of different budgets cannot be raced against each other; "
                "set evaluation.racing: false, or leave them out"
            )

    @property
    def handling(self) -> BudgetHandling:
        """Return how decisions meet the budget."""
        return self.budget_handling or ("clip" if self.prior == "none" else "projection")

    @property
    def learns(self) -> bool:
        """Say whether the algorithm is one of RLlib's."""
        return self.algorithm in _LEARNING

    @property
    def seeded(self) -> bool:
        """Say whether another seed makes another search."""
        return self.learns or SEARCHERS.find(self.algorithm).seeded

    def of(self, algorithm: str) -> SearchConfig:
        """Return the same for another algorithm, which has no options of its own."""
        if algorithm == self.algorithm:
            return self
        return self.model_copy(update={"algorithm": algorithm, "algorithm_options": {}})

    @property
    def screens(self) -> bool:
        """Say whether proposals are screened."""
        if self.screening is not None:
            return self.screening
        return self.learns and self.prior == "sensitivity" and self.episode == "whole"

    @property
    def needs(self) -> Needs:
        """Return what is to be measured beforehand."""
        if self.learns:
            return "curves" if self.prior == "sensitivity" else "nothing"
        return SEARCHERS.find(self.algorithm).needs
