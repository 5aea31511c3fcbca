"""The search space: which widths and bits every group may take.

A *unit* is the smallest part of a group that can be removed (one channel, or one channel of each
convolution group in a grouped convolution). A *width* is a number of units kept.

A candidate is one vector of whole numbers: first the widths of the groups that are pruned, then the
bits of the weights and then those of the activations, where these are searched. Each is a choice of
its own (a *dimension*), and every cost grows with all of them; so budgets, priors and searches need
not know what a dimension decides.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rl_compress.errors import ConfigError
from rl_compress.space.compression_policy import CompressionPolicy, Decision
from rl_compress.space.space_config import PruningConfig

Widths = npt.NDArray[np.int64]
"""Units kept, or bits, in each dimension of the space, shape ``(num_groups,)``."""

Aspect = Literal["pruning_ratio", "weight_bits", "activation_bits"]
"""What a dimension decides, named as in a group's decision."""


@dataclass(frozen=True, slots=True)
class GroupChoices:
    """The widths, or the bits, that one group may take."""

    name: str
    num_units: int
    """The largest of the choices: all units, or the most bits."""
    widths: tuple[int, ...]
    """Allowed widths in units, or bits, increasing; the last is ``num_units``."""
    decides: Aspect = "pruning_ratio"

    @property
    def is_open(self) -> bool:
        """Say whether there is more than one choice."""
        return len(self.widths) > 1

    def nearest(self, width: float) -> int:
        """Round a real level to the nearest allowed one (the higher of two equally near)."""
        above = bisect.bisect_left(self.widths, width)
        near = self.widths[max(above - 1, 0) : above + 1]
        return min(near, key=lambda allowed: (abs(allowed - width), -allowed))

    def thinned(self, most: int) -> GroupChoices:
        """Return at most so many of the choices, evenly spread, the ends among them."""
        if len(self.widths) <= most:
            return self
        positions = np.linspace(0, len(self.widths) - 1, most).round().astype(int)
        return dataclasses.replace(self, widths=tuple(self.widths[i] for i in positions))

    @property
    def label(self) -> str:
        """Name the dimension for readers."""
        if self.decides == "pruning_ratio":
            return self.name
        return f"{self.name} ({self.decides.replace('_', ' ')})"

    @classmethod
    def from_config(
        cls, name: str, num_units: int, channels_per_unit: int, config: PruningConfig
    ) -> GroupChoices:
        """List the widths that are multiples of ``round_to`` channels and not below the minimum."""
        smallest = max(1, int(np.ceil(num_units * (1.0 - config.max_ratio) - 1e-9)))
        widths = [
            width
            for width in range(smallest, num_units)
            if (width * channels_per_unit) % config.round_to == 0
        ]
        return cls(name, num_units, (*widths, num_units))


@dataclass(frozen=True, slots=True)
class Raises:
    """Steps from one level to the next, shape ``(steps,)`` each."""

    dimensions: npt.NDArray[np.int64]
    levels: Widths
    """To which level."""
    midpoints: npt.NDArray[np.float64]
    """The middle between both levels."""


@dataclass(frozen=True)
class SearchSpace:
    """What the search decides: for each dimension, in forward order, its choices."""

    groups: tuple[GroupChoices, ...]
    """Widths before weight bits before activation bits."""

    @functools.cached_property
    def _ends(self) -> tuple[Widths, Widths]:
        ends = [(group.widths[0], group.num_units) for group in self.groups]
        smallest, largest = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        return smallest, largest

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def num_units(self) -> Widths:
        """Units of each group uncompressed, shape ``(num_groups,)``."""
        return self._ends[1].copy()

    @property
    def full_widths(self) -> Widths:
        """Widths of the uncompressed target, shape ``(num_groups,)``."""
        return self.num_units

    @property
    def smallest_widths(self) -> Widths:
        """Smallest allowed widths, shape ``(num_groups,)``."""
        return self._ends[0].copy()

    @functools.cached_property
    def raises(self) -> Raises:
        """Every step from a level to the next, dimension by dimension."""
        counts = [len(group.widths) - 1 for group in self.groups]
        levels = [np.array(group.widths, dtype=np.int64) for group in self.groups]
        return Raises(
            np.repeat(np.arange(len(self)), counts),
            np.concatenate([own[1:] for own in levels]),
            np.concatenate([(own[1:] + own[:-1]) / 2 for own in levels]),
        )

    @property
    def num_decisions(self) -> int:
        """Return the number of groups that have a choice."""
        return sum(group.is_open for group in self.groups)

    def floor(self, widths: npt.NDArray[np.floating]) -> Widths:
        """Round real widths down to allowed ones, but never below the smallest."""
        floored = []
        for group, width in zip(self.groups, widths, strict=True):
            position = int(np.searchsorted(group.widths, width + 1e-9, side="right")) - 1
            floored.append(group.widths[max(position, 0)])
        return np.array(floored, dtype=np.int64)

    def nearest(self, widths: npt.NDArray[np.floating]) -> Widths:
        """Round real widths to the nearest allowed ones (the wider of two equally near)."""
        return np.array(
            [group.nearest(float(width)) for group, width in zip(self.groups, widths, strict=True)],
            dtype=np.int64,
        )

    def thinned(self, most: int) -> SearchSpace:
        """Return the same space with at most so many levels in each dimension."""
        return SearchSpace(tuple(group.thinned(most) for group in self.groups))

    @property
    def prunes(self) -> npt.NDArray[np.bool_]:
        """Say of each dimension whether it is a width."""
        return np.array([group.decides == "pruning_ratio" for group in self.groups], dtype=bool)

    @property
    def names(self) -> list[str]:
        """Names of the groups of which anything is decided, in forward order of their widths."""
        return list(dict.fromkeys(group.name for group in self.groups))

    def widths_of(self, policy: CompressionPolicy) -> Widths:
        """Return the allowed vector nearest to a policy's decisions.

        Raises:
            ConfigError: The policy's groups are not those of the space, or it decides less or
                more of a group than the space.
        """
        decisions = dict(policy)
        if set(decisions) != set(self.names):
            unknown = sorted(set(decisions) - set(self.names))
            missing = sorted(set(self.names) - set(decisions))
            raise ConfigError(
                f"policy: it must decide exactly the target's groups; "
                f"unknown groups {unknown}, missing groups {missing}"
            )
        decided = {(group.name, group.decides) for group in self.groups}
        for name, decision in policy:
            if decision.pruning_ratio and (name, "pruning_ratio") not in decided:
                raise ConfigError(f"policy: {name}: this group cannot be pruned")
            for aspect in ("weight_bits", "activation_bits"):
                given, searched = getattr(decision, aspect), (name, aspect) in decided
                if (given is not None) != searched:
                    remedy = "leave it out" if given is not None else "add it"
                    raise ConfigError(
                        f"policy: {name}: {aspect} is {'not ' if not searched else ''}decided in "
                        f"this job's space; {remedy}, or change space.quantization.{aspect}"
                    )
        wanted = []
        for group in self.groups:
            value = getattr(decisions[group.name], group.decides)
            is_width = group.decides == "pruning_ratio"
            wanted.append((1.0 - value) * group.num_units if is_width else value)
        return self.nearest(np.array(wanted, dtype=np.float64))

    def policy_of(self, widths: Sequence[float] | npt.NDArray[Any]) -> CompressionPolicy:
        """Return the policy whose decisions are exactly those of the vector.

        Args:
            widths: Units kept and bits, shape ``(num_groups,)``; widths need not be whole.
        """
        decisions: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        for group, width in zip(self.groups, widths, strict=True):
            is_width = group.decides == "pruning_ratio"
            decisions[group.name][group.decides] = (
                1.0 - float(width) / group.num_units if is_width else round(float(width))
            )
        return CompressionPolicy.from_mapping(
            {name: Decision(**values) for name, values in decisions.items()}
        )

    def realise(self, policy: CompressionPolicy) -> CompressionPolicy:
        """Return the policy that is really carried out: rounded to what is allowed."""
        return self.policy_of(self.widths_of(policy))
