"""The job: one YAML file that says what to compress, how far, and how to search."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rl_compress.agent.config import SearchConfig
from rl_compress.costs.device_profile import DeviceProfile
from rl_compress.errors import ConfigError
from rl_compress.evaluation.evaluator import EvaluationConfig
from rl_compress.export.artifact import ExportConfig
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.registry import IMPORTANCES, QUANTIZERS, SCORES, SEARCHERS
from rl_compress.robustness.vulnerability import VulnerabilityConfig
from rl_compress.searchers.objective import ObjectiveConfig
from rl_compress.searchers.tune_config import TuneConfig
from rl_compress.space.budget import BUDGETABLE
from rl_compress.space.space_config import SpaceConfig
from rl_compress.strict_yaml import load_yaml
from rl_compress.targets.factory import TargetConfig
from rl_compress.training.pretraining import PretrainingConfig
from rl_compress.training.recovery import FinetuningConfig
from rl_compress.validation import in_words

_PARTS = {
    "space.pruning.importance": IMPORTANCES,
    "space.quantization.quantizer": QUANTIZERS,
    "space.quantization.activation_quantizer": QUANTIZERS,
    "objective.score": SCORES,
    "search.algorithm": SEARCHERS,
}
"""Keys that call a part by its name; their options are beside them."""


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Job(BaseModel):
    """Everything that a run needs to know; defaults are filled in."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the job, and of the folder that its runs are kept in.",
    )
    target: TargetConfig = Field(description="The model to compress, with its data.")
    space: SpaceConfig = Field(default_factory=SpaceConfig, description="What may be decided.")
    device: str | None = Field(
        default=None,
        description=(
            "The device to compress for: `mobile`, `edge`, `server` or a profile of your own "
            "(.yaml), which gives a budget and the bits that may be chosen."
        ),
    )
    budget: dict[str, float | str] = Field(
        default=None,
        validate_default=True,
        # None only stands for a key that is missing.
        json_schema_extra=_without_default,
        description=(
            f"Upper bounds, by cost ({', '.join(BUDGETABLE)}), all of which hold at once: a "
            "fraction of the target's own up to 1, such as 0.3, or an amount such as `1.2M`, "
            "`300kB` or `5ms`. A number with a unit or prefix is never a fraction, a plain one "
            "above 1 is an amount, for latency in milliseconds. They come before the device's, "
            "and without a device there must be one."
        ),
    )
    objective: ObjectiveConfig = Field(
        default_factory=ObjectiveConfig, description="What the search maximises."
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="How variants are measured."
    )
    pretraining: PretrainingConfig = Field(
        default_factory=PretrainingConfig,
        description="How the target is trained before it is compressed; by default not at all.",
    )
    contribution: ContributionConfig = Field(
        default_factory=ContributionConfig,
        description="Contribution pruning: thresholds, factors, and how long.",
    )
    search: SearchConfig = Field(
        default_factory=SearchConfig, description="How candidates are found."
    )
    finetuning: FinetuningConfig = Field(
        default_factory=FinetuningConfig, description="How the delivered model is fine-tuned."
    )
    vulnerability: VulnerabilityConfig = Field(
        default_factory=VulnerabilityConfig,
        description="What `rl-compress sensitivity --attack` does to the model.",
    )
    export: ExportConfig = Field(
        default_factory=ExportConfig, description="What is delivered beside the safetensors file."
    )
    tune: TuneConfig = Field(
        default_factory=TuneConfig, description="Keys that `rl-compress tune` varies, and how."
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _some_bound(cls, budget: Any, info: ValidationInfo) -> Any:
        # A device that is itself wrong is not in the data; then that is what there is to say.
        if info.data.get("device", "wrong") is not None:
            return {} if budget is None else budget
        if budget is None:
            raise PydanticCustomError("missing", "Field required")
        if budget == {}:
            raise ValueError(
                f"give an upper bound on at least one of {', '.join(BUDGETABLE)}, or name a device"
            )
        return budget

    @model_validator(mode="after")
    def _sections_agree(self) -> Job:
        self.search.check_action(self.space.action)
        self.search.check_budgets(self.space.action, racing=self.evaluation.racing)
        sparse = self.space.pruning.structure != "channels"
        if sparse and self.evaluation.recalibration == "reconstruction":
            raise ConfigError(
                "evaluation.recalibration: reconstruction solves for all weights of a layer, and "
                "would fill those that space.pruning.structure removes; choose bias or batchnorm"
            )
        masks = self.space.action == "mask"
        profile = self.device_profile()
        quantization = self.space.quantization.resolved(
            {*self.effective_budget(), *(cost for spec in self.search.budgets for cost in spec)},
            searchable=not (masks or sparse),
            kernels=None if profile is None else (profile.weight_bits, profile.activation_bits),
        )
        self.space.quantization = quantization
        if quantization.quantizes and self.evaluation.precision == "bfloat16":
            raise ConfigError(
                "evaluation.precision: bfloat16 would round once more what space.quantization has "
                "rounded; choose auto or float32"
            )
        if profile is not None:
            profile.supports(quantization.weight_levels, quantization.activation_levels)
        if masks and self.space.quantization.searches_bits:
            raise ConfigError(
                "space.quantization: with space.action: mask only units are decided, no bits; "
                "give one bit width instead of a list, or choose action: ratio"
            )
        if self.space.quantization.granularity == "group" and not sparse:
            raise ConfigError(
                "space.quantization.granularity: groups of weights do not divide the inputs of "
                "layers that become narrower; choose channel, or a space.pruning.structure that "
                "is sparse"
            )
        if self.finetuning.schedule == "contribution" and (sparse or masks):
            raise ConfigError(
                "finetuning.schedule: contribution lets channels of groups fade out; choose "
                "one_shot, or space.pruning.structure: channels with space.action: ratio"
            )
        return self

    def named_parts(self) -> list[tuple[str, str]]:
        """Return all parts but the target: keys, and names, ``package.module:Class`` where own."""
        formats = [("export.formats", name) for name in self.export.formats or ()]
        return [*((key, attrgetter(key)(self)) for key in _PARTS), *formats]

    def check_parts(self) -> None:
        """Import all that the job calls by name, and validate its options.

        Raises:
            ConfigError: Something cannot be imported, has no such option, lacks a package, or does
                not go with another part.
        """
        for key, registry in _PARTS.items():
            name = attrgetter(key)(self)
            # What is no part is an algorithm that learns, or a score of the target's own.
            if ":" in name or name in registry:
                registry.load(name, attrgetter(f"{key}_options")(self), key=key)
        self.export.check_space(self.space)
        if self.search.needs != "contributions":
            return
        name = self.search.algorithm
        if IMPORTANCES.find(self.space.pruning.importance).needs != "contributions":
            raise ConfigError(
                f"search.algorithm: {name} keeps what contributes most, so units must be ranked by "
                f"that; set space.pruning.importance: contribution"
            )
        if self.space.action == "mask":
            raise ConfigError(
                f"space.action: the algorithm {name} decides masks by itself; choose action: "
                f"ratio, which it fills with them, or another search.algorithm"
            )

    def device_profile(self) -> DeviceProfile | None:
        """Return the profile of the device, if one is named.

        Raises:
            ConfigError: It cannot be read.
        """
        return None if self.device is None else DeviceProfile.load(self.device)

    def effective_budget(self) -> dict[str, float | str]:
        """Return the bounds that hold: those of the device, and the job's own instead or as well.

        Raises:
            ConfigError: The device's profile cannot be read.
        """
        profile = self.device_profile()
        return {**(profile.budget if profile else {}), **self.budget}

    def budget_in_words(self) -> str:
        """Return the bounds that hold, in one line."""
        return ", ".join(f"{cost} ≤ {value}" for cost, value in self.effective_budget().items())

    def to_yaml(self) -> str:
        """Return the job with all defaults filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        path: A YAML file.
        overrides: Changes such as ``search.evaluations=50``; values are YAML.

    Raises:
        ConfigError: The file or an override is wrong; the message names the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot read the job file ({getattr(error, 'strerror', error)})"
        ) from None
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({_one_line(error)})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys such as name, target and budget")
    for override in overrides:
        _apply(data, override)
    # A section with all its keys commented out is one that is not there.
    data = {key: value for key, value in data.items() if value is not None}
    return parse_job(data, str(path))


def parse_job(data: dict[str, Any], source: str = "job") -> Job:
    """Validate a job given as plain data.

    Raises:
        ConfigError: A key is unknown or missing, or a value is wrong.
    """
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {in_words(error, Job)}") from None


def filled_in(text: str) -> str:
    """Return a stored job with the keys that it lacks, or its text if it is no job of today's."""
    try:
        return parse_job(load_yaml(text)).to_yaml()
    except (ConfigError, yaml.YAMLError):
        return text


def with_values(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's data with some dotted keys set to other values.

    Raises:
        ConfigError: A key leads through a value.
    """
    changed = copy.deepcopy(dict(data))
    for key, value in values.items():
        _set(changed, key, value, key)
    return changed


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one dotted key."""
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected key.path=value, as search.evaluations=50")
    try:
        _set(data, key, load_yaml(value), f"--set {override}")
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: not valid YAML ({_one_line(error)})") from None


def _set(data: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted key, making the sections on the way where they are missing."""
    *parents, last = key.split(".")
    node: Any = data
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"{source}: {parent} is a value, not a section")
    node[last] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
