"""The `space` section of a job: what may be pruned and quantized, and how."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

from rl_compress.errors import ConfigError
from rl_compress.registry import COSTS, IMPORTANCES, QUANTIZERS, TRANSFORMS, Options

Granularity = Literal["tensor", "channel", "group"]
RangeMethod = Literal["minmax", "percentile", "mse", "aciq"]

UNQUANTIZED = 16
"""Bit width that stands for "not quantized"."""

Bits = int | list[int] | Literal["auto"]
"""One bit width for all layers, those that the search chooses from, or what suits the budget."""

_SEARCHED_WEIGHT_BITS = [2, 3, 4, 5, 6, 8]
_SEARCHED_ACTIVATION_BITS = [4, 5, 6, 8]
"""What is searched where the job says nothing and a budget depends on bits."""


def is_bit_width(bits: float) -> bool:
    """Say whether a number of bits can be asked for."""
    return bits == UNQUANTIZED or 1 <= bits <= 8


class PruningConfig(BaseModel):
    """Which pruning ratios the search may choose, and what a ratio removes."""

    model_config = ConfigDict(extra="forbid")

    structure: str = Field(
        default="channels",
        description=(
            "What is removed: `channels` (the layers become narrower), `weights` (single ones), "
            "`blocks` of weights, all but N of every M weights along the inputs, as `2:4`, or a "
            "class of your own derived from rl_compress.transforms.transform.Structure, as "
            "`package.module:Class`."
        ),
    )
    structure_options: Options = Field(
        default_factory=dict, description="Options of a `structure` of your own."
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
    importance: Annotated[str, IMPORTANCES] = Field(
        default="l2",
        description=(
            "What ranks the units of a group: norm of their weights (l1, l2), `batchnorm` scale, "
            "first-order `taylor`, distance from the `geometric_median`, weight times `activation` "
            "(Wanda), `contribution`, `random`, or a class of your own derived from "
            "rl_compress.importance.importance.Importance, as `package.module:Class`."
        ),
    )
    importance_options: Options = Field(
        default_factory=dict, description="Options of an `importance` of your own."
    )

    @property
    def narrows(self) -> bool:
        """Say whether layers become narrower, instead of weights zero.

        Raises:
            ConfigError: The structure is the user's own, and cannot be imported.
        """
        if parse_n_of_m(self.structure):
            return False
        return bool(TRANSFORMS.find(self.structure).narrows)

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
        if (pattern := parse_n_of_m(structure)) is None:
            TRANSFORMS.path(structure)
        elif not 0 < pattern[0] < pattern[1]:
            raise ValueError("must be N:M such as 2:4, with N < M")
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

    weight_bits: Bits = Field(
        default="auto",
        description="Bits of each weight, 1 to 8; 16: not quantized. A list such as `[2, 4, 8]`: "
        "the search chooses for each group. `auto`: it does where the budget bounds size_bytes or "
        "bops, else 16.",
    )
    activation_bits: Bits = Field(
        default="auto",
        description="Bits of each input of a layer, likewise; `auto` searches them where the "
        "budget bounds bops.",
    )
    quantizer: Annotated[str, QUANTIZERS] = Field(
        default="symmetric",
        description=f"How weights are mapped to codes: {', '.join(QUANTIZERS.built_in)}, or a "
        "class of your own derived from rl_compress.quantizers.quantizer.Quantizer, as "
        "`package.module:Class`.",
    )
    quantizer_options: Options = Field(
        default_factory=dict, description="Options of a `quantizer` of your own."
    )
    activation_quantizer: Annotated[str, QUANTIZERS] = Field(
        default="uniform",
        description="How activations are mapped to codes, per tensor; likewise.",
    )
    activation_quantizer_options: Options = Field(
        default_factory=dict, description="Options of an `activation_quantizer` of your own."
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
    def _known_bits(cls, bits: Bits) -> Bits:
        if bits == "auto":
            return bits
        levels = sorted(set(bits)) if isinstance(bits, list) else [bits]
        if not levels or not all(map(is_bit_width, levels)):
            raise ValueError("must be 1 to 8, or 16 for no quantization")
        return levels if len(levels) > 1 else levels[0]

    @property
    def weight_levels(self) -> tuple[int, ...]:
        """Bits that weights may have, increasing."""
        return _levels(self.weight_bits)

    @property
    def activation_levels(self) -> tuple[int, ...]:
        """Bits that activations may have, increasing."""
        return _levels(self.activation_bits)

    @property
    def searches_bits(self) -> bool:
        """Say whether the search decides bits."""
        return max(len(self.weight_levels), len(self.activation_levels)) > 1

    @property
    def quantizes(self) -> bool:
        """Say whether anything is quantized."""
        return min(self.weight_levels[0], self.activation_levels[0]) < UNQUANTIZED

    def resolved(
        self,
        budgeted: Collection[str],
        *,
        searchable: bool,
        kernels: tuple[Collection[int], Collection[int]] | None = None,
    ) -> QuantizationConfig:
        """Return the same with ``auto`` replaced by what suits the budget and the device.

        Args:
            budgeted: The costs that the budget bounds.
            searchable: Whether the rest of the space lets bits be searched.
            kernels: Bits of weights and of activations that the device supports; None: all.
        """
        of_weights, of_activations = kernels or (None, None)
        counted = {bits for cost in budgeted for bits in _bits_counted_by(cost)}
        weights = searchable and "weight_bits" in counted
        activations = searchable and "activation_bits" in counted
        chosen: dict[str, Bits] = {}
        if self.weight_bits == "auto":
            chosen["weight_bits"] = _suitable(_SEARCHED_WEIGHT_BITS if weights else (), of_weights)
        if self.activation_bits == "auto":
            chosen["activation_bits"] = _suitable(
                _SEARCHED_ACTIVATION_BITS if activations else (), of_activations
            )
        return self.model_copy(update=chosen)


def _bits_counted_by(cost: str) -> tuple[str, ...]:
    # What is no cost, or cannot be imported here, is told where the budget is read.
    with contextlib.suppress(ConfigError, ValueError):
        return tuple(COSTS.find(cost).bits)
    return ()


def _suitable(searched: Sequence[int], kernels: Collection[int] | None) -> Bits:
    """Return the bits to search, or the one that all layers get where none are."""
    wanted = searched or (UNQUANTIZED,)
    if kernels is not None:
        wanted = [bits for bits in wanted if bits in kernels] or [max(kernels)]
    return list(wanted) if len(wanted) > 1 else wanted[0]


def _levels(bits: Bits) -> tuple[int, ...]:
    if bits == "auto":
        return (UNQUANTIZED,)
    return tuple(bits) if isinstance(bits, list) else (bits,)


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
    protect: list[str] | None = Field(
        default=None,
        description="Layer names or patterns that are not pruned, and have `protected_bits`; by "
        "default the first and the last layer where bits are searched, and none elsewhere.",
    )
    protected_bits: int = Field(
        default=8, description="Bits of what is protected, where bits are searched."
    )

    @field_validator("protected_bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if not is_bit_width(bits):
            raise ValueError("must be 1 to 8, or 16 for no quantization")
        return bits

    def protected(self, layers: Sequence[str]) -> list[str]:
        """Return the protected ones of a model's layers.

        Args:
            layers: Its convolutions and linear layers, in forward order.
        """
        if self.protect is None:
            return [layers[0], layers[-1]] if layers and self.quantization.searches_bits else []
        patterns = self.protect
        return [name for name in layers if any(fnmatchcase(name, p) for p in patterns)]

    def protection_of(self, layer: str, protected: Sequence[str]) -> str:
        """Say why a layer is protected.

        Args:
            layer: One of ``protected``.
            protected: See :meth:`protected`.
        """
        if self.protect is not None:
            return f"{layer} is listed in space.protect"
        place = "first" if layer == protected[0] else "last"
        return (
            f"{layer} is the {place} layer, which is protected where bits are searched "
            f"(space.protect: [] decides on it too)"
        )

    def skips(self, layer: str) -> bool:
        """Say whether one of the patterns matches a layer's name."""
        return any(fnmatchcase(layer, pattern) for pattern in self.skip)


def parse_n_of_m(structure: str) -> tuple[int, int] | None:
    """Return N and M of a structure such as ``2:4``, or None if it is no such pattern."""
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    return (int(match.group(1)), int(match.group(2))) if match else None
