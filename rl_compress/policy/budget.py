"""Budgets: upper bounds on costs, and the projection of widths onto them.

The projection makes every candidate meet its budget by construction: the search never spends an
evaluation on a variant that is too expensive, and the reward needs no penalty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rl_compress.errors import ConfigError, InfeasibleBudgetError
from rl_compress.policy.search_space import SearchSpace, Widths

COSTS = ("macs", "params", "size_bytes", "bops", "peak_memory_bytes")
"""Costs that are known of every variant before it is built: MACs per sample, parameters, bytes of
its stored tensors, bit operations per sample (MACs times weight bits times activation bits), and
the most bytes of activations alive at once in a forward pass of one sample."""

LATENCY = "latency_ms"
"""Measured milliseconds of a forward pass; can be weighted and traded off, but not budgeted."""

_PREFIXES = {
    "": 1.0,
    "k": 1e3,
    "m": 1e6,
    "g": 1e9,
    "t": 1e12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
}
_UNITS = {"macs": "", "params": "", "size_bytes": "b", "bops": "", "peak_memory_bytes": "b"}


class CostFunction(Protocol):
    """Anything that tells the exact costs of widths."""

    def costs(self, widths: Widths) -> dict[str, float]:
        """Return every cost of :data:`COSTS` for widths of shape ``(num_groups,)``."""

    def batch(self, widths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Return the same of many, ``(variants, num_groups)``, by cost of shape ``(variants,)``."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds on costs, in the costs' own units."""

    bounds: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, spec: Mapping[str, float | str], original: Mapping[str, float]) -> Budget:
        """Read the `budget` section of a job.

        Args:
            spec: For each cost a fraction of the target's own in (0, 1], a number above 1, or a
                text with a unit, such as ``"1.2M"`` or ``"300kB"``.
            original: Costs of the uncompressed target.

        Raises:
            ConfigError: A cost is unknown or a value is no number.
        """
        bounds = []
        for cost, value in spec.items():
            if cost == LATENCY:
                raise ConfigError(
                    "budget.latency_ms: latency is known only when it has been measured, so it "
                    "cannot bound a search; give it a weight in objective.weights, or bound "
                    f"{', '.join(COSTS)}"
                )
            if cost not in COSTS:
                raise ConfigError(f"budget.{cost}: unknown cost; choose from {', '.join(COSTS)}")
            number = parse_amount(cost, value)
            bounds.append((cost, number * original[cost] if number <= 1.0 else number))
        return cls(tuple(bounds))

    def as_dict(self) -> dict[str, float]:
        """Return the bounds by cost."""
        return dict(self.bounds)

    def admits(self, costs: Mapping[str, float]) -> bool:
        """Say whether costs are within every bound."""
        return all(costs[cost] <= bound for cost, bound in self.bounds)

    def usage(self, costs: Mapping[str, float]) -> float:
        """Return the largest fraction of a bound that is used; above 1 the budget is exceeded."""
        return max((costs[cost] / bound for cost, bound in self.bounds), default=0.0)

    def check_feasible(
        self, space: SearchSpace, cost_function: CostFunction, original: Mapping[str, float]
    ) -> None:
        """Make sure that the smallest variant of the space meets the budget.

        Args:
            space: Allowed widths.
            cost_function: Exact costs of widths.
            original: Costs of the uncompressed target, for the message.

        Raises:
            InfeasibleBudgetError: It does not; the message gives the smallest feasible value.
        """
        smallest = cost_function.costs(space.smallest_widths)
        for cost, bound in self.bounds:
            if smallest[cost] > bound:
                # Rounded up in the fourth place, so that the value named is itself accepted.
                fraction = np.ceil(1e4 * smallest[cost] / original[cost]) / 1e4
                if fraction * original[cost] < smallest[cost]:
                    fraction += 1e-4
                raise InfeasibleBudgetError(
                    f"budget.{cost}: {bound:,.0f} cannot be met; the smallest feasible value is "
                    f"{smallest[cost]:,.0f} ({fraction:.4f} of the target's "
                    f"{original[cost]:,.0f}); raise the budget, or raise space.pruning.max_ratio "
                    f"or shorten space.skip"
                )


def parse_amount(cost: str, value: float | str) -> float:
    """Read an amount of a cost: ``0.3``, ``1200000``, ``"1.2M"``, ``"300kB"``.

    Raises:
        ConfigError: The value is not a positive number with a unit that fits the cost.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", value.lower())
        suffix = match.group(2) if match else ""
        unit = _UNITS[cost]
        prefix = suffix.removesuffix(unit) if unit else suffix
        try:
            if match is None or prefix not in _PREFIXES:
                raise ValueError(value)
            number = float(match.group(1)) * _PREFIXES[prefix]
        except ValueError:
            example = '"300kB"' if unit == "b" else '"1.2M"'
            raise ConfigError(
                f"budget.{cost}: expected a fraction such as 0.3 or an amount such as {example}, "
                f"but got {value!r}"
            ) from None
    elif isinstance(value, bool):
        raise ConfigError(f"budget.{cost}: expected a number, but got {value!r}")
    else:
        number = float(value)
    if not (number > 0 and np.isfinite(number)):
        raise ConfigError(f"budget.{cost}: must be above 0, but got {value!r}")
    return number


def project(
    keep: npt.NDArray[np.floating],
    budget: Budget,
    space: SearchSpace,
    cost_function: CostFunction,
    *,
    fill: bool = True,
) -> Widths:
    """Move fractions kept onto the budget, all groups in proportion.

    The fractions are scaled by the largest common factor that the budget admits, each clipped to
    what its group allows, then rounded down; what rounding left over is given back unit by unit,
    first to the group that rounding robbed most.

    Args:
        keep: Fraction of units kept in each group, in (0, 1], shape ``(num_groups,)``.
        budget: Upper bounds.
        space: Allowed widths.
        cost_function: Exact costs of widths.
        fill: Also scale up a candidate that leaves part of the budget unused.

    Returns:
        Allowed widths within the budget, shape ``(num_groups,)``. The budget must be feasible.
    """
    units = space.num_units
    wanted = np.clip(np.asarray(keep, dtype=np.float64), 1e-6, 1.0) * units

    def scaled(factor: float) -> Widths:
        return space.floor(np.clip(wanted * factor, 0.0, units))

    def fits(widths: Widths) -> bool:
        return budget.admits(cost_function.costs(widths))

    high = float((units / wanted).max()) if fill else 1.0
    if fits(scaled(high)):
        return scaled(high)
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(scaled(middle)) else (low, middle)
    widths = scaled(low)
    target = np.clip(wanted * high, 0.0, units)
    return _give_back(widths, target, space, fits)


def _give_back(
    widths: Widths, target: npt.NDArray[np.float64], space: SearchSpace, fits: _Predicate
) -> Widths:
    """Raise groups to their next width, the one that rounding robbed most first, while it fits."""
    widths = widths.copy()
    shortfall = (target - widths) / space.num_units
    for index in np.argsort(-shortfall, kind="stable"):
        wider = [width for width in space.groups[index].widths if width > widths[index]]
        if not wider or shortfall[index] <= 0:
            continue
        candidate = widths.copy()
        candidate[index] = wider[0]
        if fits(candidate):
            widths = candidate
    return widths


class _Predicate(Protocol):
    def __call__(self, widths: Widths) -> bool: ...
