"""The search space: what can be decided of a target, and which choices each decision has.

A *dimension* is one decision: a site of the model and how it is made smaller. Its choices are
*amounts*: of a group of channels the units kept (a *unit* is the smallest part that can be removed:
one channel, or one of each convolution group in a grouped convolution), else a number of bits.

A candidate is a vector of *levels*, for each dimension the index of its choice. Each is a choice of
its own, and every cost grows with all of them; so budgets, priors and searches need not know what a
dimension decides. Dimensions that prune come first, then the bits of the weights and those of the
activations, where these are searched.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.errors import ConfigError
from rl_compress.space.compression_policy import CompressionPolicy, Decision
from rl_compress.space.space_config import PruningConfig

Levels = npt.NDArray[np.int64]
"""A candidate: for each dimension the index of its choice, shape ``(D,)``; of many ``(N, D)``."""

Amounts = npt.NDArray[np.int64]
"""What levels stand for, in the same shape: units kept, or bits."""

PRUNING = "pruning_ratio"
DECIDES = (PRUNING, "weight_bits", "activation_bits")
"""What can be decided of a site, as policies name it."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One decision of the search, with its choices."""

    site: str
    """The layer group, or the layer, that is made smaller."""
    transform: str
    """How: `channels`, `sparsity`, `weight_bits`, `activation_bits`, or one of the user's own."""
    amounts: tuple[int, ...]
    """Units kept, or bits, increasing; the last is the uncompressed."""

    @property
    def full(self) -> int:
        """The largest amount: all units, or the most bits."""
        return self.amounts[-1]

    @property
    def is_open(self) -> bool:
        """Say whether there is more than one choice."""
        return len(self.amounts) > 1

    @property
    def decides(self) -> str:
        """What it decides of its site, one of :data:`DECIDES`."""
        return self.transform if self.transform in DECIDES else PRUNING

    @property
    def prunes(self) -> bool:
        """Say whether it decides how much is removed, instead of bits."""
        return self.decides == PRUNING

    @property
    def label(self) -> str:
        """Name the dimension for readers."""
        return self.site if self.prunes else f"{self.site} ({self.decides.replace('_', ' ')})"

    def nearest(self, amount: float) -> int:
        """Return the level nearest to a real amount (the higher of two equally near)."""
        above = bisect.bisect_left(self.amounts, amount)
        near = range(max(above - 1, 0), min(above + 1, len(self.amounts)))
        return min(near, key=lambda level: (abs(self.amounts[level] - amount), -level))

    def thinned(self, most: int) -> Dimension:
        """Return at most so many of the choices, evenly spread, the ends among them."""
        if len(self.amounts) <= most:
            return self
        chosen = np.linspace(0, len(self.amounts) - 1, most).round().astype(int)
        return dataclasses.replace(self, amounts=tuple(self.amounts[level] for level in chosen))

    @classmethod
    def of_channels(
        cls, site: str, num_units: int, channels_per_unit: int, config: PruningConfig
    ) -> Dimension:
        """List the widths that are multiples of ``round_to`` channels and not below the minimum."""
        smallest = max(1, int(np.ceil(num_units * (1.0 - config.max_ratio) - 1e-9)))
        widths = [
            width
            for width in range(smallest, num_units)
            if (width * channels_per_unit) % config.round_to == 0
        ]
        return cls(site, "channels", (*widths, num_units))


@dataclass(frozen=True, slots=True)
class Raises:
    """Steps from one level to the next, shape ``(steps,)`` each."""

    dimensions: npt.NDArray[np.int64]
    levels: Levels
    """To which level."""
    midpoints: npt.NDArray[np.float64]
    """The middle between the amounts of both levels."""


@dataclass(frozen=True)
class SearchSpace:
    """What the search decides: the dimensions, in forward order."""

    dimensions: tuple[Dimension, ...]
    """Those that prune before weight bits before activation bits."""

    def __len__(self) -> int:
        """Return the number of dimensions, D."""
        return len(self.dimensions)

    @functools.cached_property
    def _table(self) -> tuple[Amounts, Levels]:
        """All amounts, dimension by dimension, and where those of each begin."""
        amounts = [amount for own in self.dimensions for amount in own.amounts]
        starts = np.cumsum([0, *(self.full[:-1] + 1)], dtype=np.int64)
        return np.array(amounts, dtype=np.int64), starts

    @property
    def full(self) -> Levels:
        """Levels of the uncompressed target."""
        return np.array([len(own.amounts) - 1 for own in self.dimensions], dtype=np.int64)

    @property
    def smallest(self) -> Levels:
        """Levels of the most compressed variant."""
        return np.zeros(len(self), dtype=np.int64)

    @functools.cached_property
    def full_amounts(self) -> Amounts:
        """Amounts of the uncompressed target, shape ``(D,)``; not to be written to."""
        return self.amounts(self.full)

    def amounts(self, levels: Levels) -> Amounts:
        """Return the units kept, or bits, that levels stand for, in their shape."""
        return self._table[0][self.indices(levels)]

    def indices(self, levels: Levels) -> npt.NDArray[np.int64]:
        """Return where levels are in a table of all levels, one dimension after the other."""
        return self._table[1] + levels

    def kept(self, levels: Levels) -> npt.NDArray[np.float64]:
        """Return which fraction of the uncompressed amounts levels keep, in their shape."""
        return self.amounts(levels) / self.full_amounts

    def nearest(self, amounts: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> Levels:
        """Round real amounts, shape ``(D,)``, to levels (the higher of two equally near)."""
        pairs = zip(self.dimensions, amounts, strict=True)
        return np.array([own.nearest(float(amount)) for own, amount in pairs], dtype=np.int64)

    def floor(self, amounts: npt.NDArray[np.floating]) -> Levels:
        """Round real amounts, shape ``(D,)``, down to levels, but never below the smallest."""
        found = [
            int(np.searchsorted(own.amounts, amount + 1e-9, side="right")) - 1
            for own, amount in zip(self.dimensions, amounts, strict=True)
        ]
        return np.maximum(np.array(found, dtype=np.int64), 0)

    @functools.cached_property
    def raises(self) -> Raises:
        """Every step from a level to the next, dimension by dimension."""
        amounts = [np.array(own.amounts, dtype=np.int64) for own in self.dimensions]
        return Raises(
            np.repeat(np.arange(len(self)), self.full),
            np.concatenate([np.arange(1, len(own)) for own in amounts]),
            np.concatenate([(own[1:] + own[:-1]) / 2 for own in amounts]),
        )

    @property
    def num_decisions(self) -> int:
        """Return the number of dimensions that have a choice."""
        return sum(own.is_open for own in self.dimensions)

    def thinned(self, most: int) -> SearchSpace:
        """Return the same space with at most so many levels in each dimension."""
        return SearchSpace(tuple(own.thinned(most) for own in self.dimensions))

    @property
    def prunes(self) -> npt.NDArray[np.bool_]:
        """Say of each dimension whether it decides how much is removed."""
        return np.array([own.prunes for own in self.dimensions], dtype=bool)

    @property
    def sites(self) -> list[str]:
        """Names of what anything is decided of, in forward order."""
        return list(dict.fromkeys(own.site for own in self.dimensions))

    def levels_of(self, policy: CompressionPolicy) -> Levels:
        """Return the levels nearest to a policy's decisions.

        Raises:
            ConfigError: The policy's groups are not those of the space, or it decides less or
                more of a group than the space.
        """
        decisions = dict(policy)
        if set(decisions) != set(self.sites):
            unknown = sorted(set(decisions) - set(self.sites))
            missing = sorted(set(self.sites) - set(decisions))
            raise ConfigError(
                f"policy: it must decide exactly the target's groups; "
                f"unknown groups {unknown}, missing groups {missing}"
            )
        decided = {(own.site, own.decides) for own in self.dimensions}
        for name, decision in policy:
            if decision.pruning_ratio and (name, PRUNING) not in decided:
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
        for own in self.dimensions:
            value = getattr(decisions[own.site], own.decides)
            wanted.append((1.0 - value) * own.full if own.prunes else value)
        return self.nearest(np.array(wanted, dtype=np.float64))

    def policy_of(self, levels: Levels) -> CompressionPolicy:
        """Return the policy whose decisions are exactly those of levels, shape ``(D,)``."""
        return self._policy(self.amounts(levels))

    def policy_asked_for(self, keep: npt.NDArray[np.floating], levels: Levels) -> CompressionPolicy:
        """Return the policy with pruning ratios as they were asked for, before they were rounded.

        Args:
            keep: Fractions to keep, shape ``(D,)``.
            levels: What came of it; bits are taken from there.
        """
        asked = np.round(keep, 6) * self.full_amounts
        return self._policy(np.where(self.prunes, asked, self.amounts(levels)))

    def _policy(self, amounts: npt.NDArray[Any]) -> CompressionPolicy:
        decisions: dict[str, dict[str, Any]] = {site: {} for site in self.sites}
        for own, amount in zip(self.dimensions, amounts, strict=True):
            decisions[own.site][own.decides] = (
                1.0 - float(amount) / own.full if own.prunes else round(float(amount))
            )
        return CompressionPolicy.from_mapping(
            {site: Decision(**values) for site, values in decisions.items()}
        )
