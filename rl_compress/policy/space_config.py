"""The `space` section of a job: what may be pruned and quantized, and how."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Criterion = Literal[
    "l1",
    "l2",
    "batchnorm",
    "taylor",
    "geometric_median",
    "activation",
    "contribution",
    "random",
]
QuantizerName = Literal[
    "symmetric", "uniform", "piecewise", "cumulative_shift", "polynomial", "kmeans"
]
Granularity = Literal["tensor", "channel", "group"]
RangeMethod = Literal["minmax", "percentile", "mse", "aciq"]

UNQUANTIZED = 16
"""Bit width that stands for "not quantized"."""


class PruningConfig(BaseModel):
    """Which pruning ratios the search may choose, and what a ratio removes."""

    model_config = ConfigDict(extra="forbid")

    structure: str = Field(
        default="channels",
        description=(
            "What is removed: `channels` (the layers become narrower), `weights` (single ones), "
            "`blocks` of weights, or all but N of every M weights along the inputs, as `2:4`."
        ),
    )
    block_shape: tuple[int, int] = Field(
        default=(4, 4),
        description="With `blocks`: outputs and inputs of a block; must divide each layer's.",
    )
    max_ratio: float = Field(
        default=0.9, ge=0.0, lt=1.0, description="Largest fraction of a group's units removed."
    )
    round_to: int = Field(
        default=1,
        ge=1,
        description="Widths are multiples of this many channels; 8 or 16 suits vector units.",
    )
    importance: Criterion = Field(
        default="l2",
        description=(
            "What ranks the units of a group: norm of their weights (l1, l2), `batchnorm` scale, "
            "first-order `taylor`, distance from the `geometric_median`, weight times `activation` "
            "(Wanda), `contribution`, or `random`."
        ),
    )

    @field_validator("structure", mode="before")
    @classmethod
    def _not_base_sixty(cls, structure: object) -> object:
        # YAML takes 2:4 without quotation marks for 2 minutes and 4 seconds.
        if isinstance(structure, int) and not isinstance(structure, bool) and structure > 60:
            return f"{structure // 60}:{structure % 60}"
        return structure

    @field_validator("structure")
    @classmethod
    def _known_structure(cls, structure: str) -> str:
        if structure in ("channels", "weights", "blocks"):
            return structure
        if (pattern := parse_n_of_m(structure)) is None or not 0 < pattern[0] < pattern[1]:
            raise ValueError("must be channels, weights, blocks or N:M such as 2:4, with N < M")
        return structure

    @field_validator("block_shape")
    @classmethod
    def _whole_blocks(cls, shape: tuple[int, int]) -> tuple[int, int]:
        if min(shape) < 1 or math.prod(shape) < 2:
            raise ValueError("must be two whole numbers from 1 on, of which one is above 1")
        return shape


class QuantizationConfig(BaseModel):
    """How weights and activations are quantized; by default they are not."""

    model_config = ConfigDict(extra="forbid")

    weight_bits: int = Field(
        default=UNQUANTIZED, description="Bits of each weight, 1 to 8; 16: not quantized."
    )
    activation_bits: int = Field(
        default=UNQUANTIZED,
        description="Bits of each input of a layer, 1 to 8; 16: not quantized.",
    )
    quantizer: QuantizerName = Field(
        default="symmetric", description="How weights are mapped to codes."
    )
    activation_quantizer: QuantizerName = Field(
        default="uniform", description="How activations are mapped to codes, per tensor."
    )
    granularity: Granularity = Field(
        default="channel",
        description="What shares one scale: a `tensor`, an output `channel`, or a `group` of "
        "weights along the inputs of a channel.",
    )
    group_size: int = Field(
        default=64, ge=1, description="Weights of a `group`; must divide the inputs of each layer."
    )
    range: RangeMethod = Field(
        default="mse",
        description="Where values are clipped: at the extremes (`minmax`), a `percentile`, where "
        "the squared error is least (`mse`), or where a fitted distribution says so (`aciq`).",
    )
    percentile: float = Field(
        default=99.9, gt=50, le=100, description="With `percentile`: of the absolute values, in %."
    )
    contribution_threshold: float = Field(
        default=0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="With `cumulative_shift`: weights that contribute less, relative to the "
        "largest contribution of their channel, become 0.",
    )

    @field_validator("weight_bits", "activation_bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits != UNQUANTIZED and not 1 <= bits <= 8:
            raise ValueError("must be 1 to 8, or 16 for no quantization")
        return bits

    @property
    def quantizes(self) -> bool:
        """Say whether anything is quantized."""
        return min(self.weight_bits, self.activation_bits) < UNQUANTIZED


class SpaceConfig(BaseModel):
    """The `space` section of a job."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["ratio", "mask"] = Field(
        default="ratio",
        description="What the agent decides: the pruning `ratio` of each group, or a binary `mask` "
        "over all single units (small models).",
    )
    max_mask_units: int = Field(
        default=1024, ge=1, description="With `mask`: models with more units are refused."
    )
    pruning: PruningConfig = Field(
        default_factory=PruningConfig, description="How much of each group may be removed."
    )
    quantization: QuantizationConfig = Field(
        default_factory=QuantizationConfig, description="Bits of weights and activations."
    )
    skip: list[str] = Field(
        default_factory=list,
        description="Layer names or patterns (`layer1.*`) whose groups are left as they are.",
    )

    def skips(self, layer: str) -> bool:
        """Say whether one of the patterns matches a layer's name."""
        return any(fnmatchcase(layer, pattern) for pattern in self.skip)


def parse_n_of_m(structure: str) -> tuple[int, int] | None:
    """Return N and M of a structure such as ``2:4``, or None if it is no such pattern."""
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    return (int(match.group(1)), int(match.group(2))) if match else None
