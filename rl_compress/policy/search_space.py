"""The search space: which widths every group may take.

A *unit* is the smallest part of a group that can be removed (one channel, or one channel of each
convolution group in a grouped convolution). A *width* is a number of units kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl_compress.errors import ConfigError
from rl_compress.policy.compression_policy import CompressionPolicy, Decision
from rl_compress.policy.space_config import PruningConfig

Widths = npt.NDArray[np.int64]
"""Units kept in each group of the space, shape ``(num_groups,)``."""


@dataclass(frozen=True, slots=True)
class GroupChoices:
    """The widths that one group may take."""

    name: str
    num_units: int
    widths: tuple[int, ...]
    """Allowed widths in units, increasing; the last is ``num_units``."""

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
class SearchSpace:
    """The groups that the search decides, in forward order."""

    groups: tuple[GroupChoices, ...]

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def num_units(self) -> Widths:
        """Units of each group uncompressed, shape ``(num_groups,)``."""
        return np.array([group.num_units for group in self.groups], dtype=np.int64)

    @property
    def full_widths(self) -> Widths:
        """Widths of the uncompressed target, shape ``(num_groups,)``."""
        return self.num_units

    @property
    def smallest_widths(self) -> Widths:
        """Smallest allowed widths, shape ``(num_groups,)``."""
        return np.array([group.widths[0] for group in self.groups], dtype=np.int64)

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
            [
                min(group.widths, key=lambda allowed: (abs(allowed - width), -allowed))
                for group, width in zip(self.groups, widths, strict=True)
            ],
            dtype=np.int64,
        )

    def widths_of(self, policy: CompressionPolicy) -> Widths:
        """Return the allowed widths nearest to a policy's ratios.

        Raises:
            ConfigError: The policy's groups are not those of the space.
        """
        ratios = {name: decision.pruning_ratio for name, decision in policy}
        names = [group.name for group in self.groups]
        if set(ratios) != set(names):
            unknown = sorted(set(ratios) - set(names))
            missing = sorted(set(names) - set(ratios))
            raise ConfigError(
                f"policy: it must decide exactly the target's prunable groups; "
                f"unknown groups {unknown}, missing groups {missing}"
            )
        keep = np.array([1.0 - ratios[name] for name in names])
        return self.nearest(keep * self.num_units)

    def policy_of(self, widths: Sequence[int] | Widths) -> CompressionPolicy:
        """Return the policy whose ratios are exactly those of the widths."""
        return CompressionPolicy(
            tuple(
                (group.name, Decision(pruning_ratio=1.0 - int(width) / group.num_units))
                for group, width in zip(self.groups, widths, strict=True)
            )
        )

    def realise(self, policy: CompressionPolicy) -> CompressionPolicy:
        """Return the policy that is really carried out: ratios rounded to allowed widths."""
        return self.policy_of(self.widths_of(policy))
