"""Budgets: upper bounds on costs, as fractions of the target's own or as amounts with units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rl_compress.errors import ConfigError, InfeasibleBudgetError
from rl_compress.registry import COSTS
from rl_compress.space.search_space import Levels, SearchSpace

LATENCY = "latency_ms"
"""Milliseconds of a forward pass on a device: measured of a variant once it is built, and predicted
from measurements of its layers before; a budget may bound it only where it is predicted."""

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
_SUFFIXES: dict[str, Mapping[str, float]] = {
    "": _PREFIXES,
    "B": {prefix + unit: factor for prefix, factor in _PREFIXES.items() for unit in ("", "b")},
    "ms": {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3},
}
"""By unit what may follow a number, in lower case, and what it multiplies the number by; another
unit may follow as it is, for m may be milli or mega."""

_EXAMPLES = {"": "1.2M", "B": "300kB"}


class CostFunction(Protocol):
    """Anything that tells the costs of levels before a variant is built.

    No cost falls when the level of a dimension rises.
    """

    def costs(self, levels: Levels) -> dict[str, float]:
        """Return every cost that it knows, by name, for levels of shape ``(D,)``."""

    def batch(self, levels: Levels) -> Mapping[str, npt.NDArray[Any]]:
        """Return the same for levels of shape ``(N, D)``, by cost an array of shape ``(N,)``."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A bound as the user gave it."""

    number: float
    is_fraction: bool
    """Whether the number is a fraction of the target's own cost, else it is in the cost's unit."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds on costs, in the costs' own units."""

    bounds: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, spec: Mapping[str, float | str], original: Mapping[str, float]) -> Budget:
        """Read the `budget` section of a job.

        Args:
            spec: For each cost an amount as :func:`parse_amount` reads it.
            original: Costs of the uncompressed target.

        Raises:
            ConfigError: A cost is unknown, a value is no amount, or nothing predicts latency.
        """
        bounds = []
        for cost, value in spec.items():
            if cost not in COSTS:
                raise ConfigError(
                    f"budget.{cost}: unknown cost; choose from {', '.join(COSTS.built_in)}, or "
                    f"your own as package.module:Class"
                )
            amount = parse_amount(cost, value)
            if cost == LATENCY and cost not in original:
                raise ConfigError(
                    f"budget.{cost}: needs a latency table; measure one with `rl-compress "
                    f"latency-table JOB`, or give {cost} a weight in objective.weights, or bound "
                    f"{', '.join(name for name in COSTS.built_in if name != LATENCY)}"
                )
            if cost not in original:
                raise ConfigError(
                    f"budget.{cost}: the run did not count this cost; choose from "
                    f"{', '.join(original)}"
                )
            factor = original[cost] if amount.is_fraction else 1.0
            bounds.append((cost, amount.number * factor))
        return cls(tuple(bounds))

    def as_dict(self) -> dict[str, float]:
        """Return the bounds by cost."""
        return dict(self.bounds)

    def admits(self, costs: Mapping[str, float]) -> bool:
        """Say whether costs are within every bound."""
        return all(costs[cost] <= bound for cost, bound in self.bounds)

    def loose(self, original: Mapping[str, float]) -> str | None:
        """Say which bounds are above the target's own cost, and bound nothing; None if none is.

        Args:
            original: Costs of the uncompressed target.
        """
        above = [
            f"budget.{cost}: {_lower(cost, bound)} is above the target's own "
            f"{_upper(cost, original[cost])} and bounds nothing"
            for cost, bound in self.bounds
            if bound > original[cost]
        ]
        if not above:
            return None
        every = "; the whole target is within the budget" if len(above) == len(self.bounds) else ""
        return f"{'; '.join(above)}{every}; give less, as a share such as 0.5 or as an amount"

    def usage(self, costs: Mapping[str, float]) -> float:
        """Return the largest fraction of a bound that is used; above 1 the budget is exceeded."""
        return max((costs[cost] / bound for cost, bound in self.bounds), default=0.0)

    def check_feasible(
        self, space: SearchSpace, cost_function: CostFunction, original: Mapping[str, float]
    ) -> None:
        """Make sure that the smallest variant of the space meets the budget.

        Args:
            space: Has the smallest variant.
            cost_function: Costs of levels.
            original: Costs of the uncompressed target, for the message.

        Raises:
            InfeasibleBudgetError: It does not; the message gives the smallest feasible value of
                every bound that is not met.
        """
        smallest = cost_function.costs(space.smallest)
        unmet = [
            f"budget.{cost}: {_lower(cost, bound)} cannot be met; the smallest feasible value is "
            f"{_upper(cost, smallest[cost])} ({_multiple(smallest[cost], original[cost]):.4f} of "
            f"the target's {_upper(cost, original[cost])})"
            for cost, bound in self.bounds
            if smallest[cost] > bound
        ]
        if unmet:
            raise InfeasibleBudgetError(
                f"{'; '.join(unmet)}; raise the budget, or widen the space: raise "
                "space.pruning.max_ratio, allow fewer bits in space.quantization, or shorten "
                "space.skip"
            )


def parse_amount(cost: str, value: float | str) -> Amount:
    """Read a bound on a cost.

    A plain number up to 1 is a fraction of the target's own cost (``0.3``); one above 1 is an
    amount (``1200000``), for latency in milliseconds. A number with a prefix or unit is always an
    amount: ``"1.2M"``, ``"300kB"``, ``"0.5MB"``, ``"0.9ms"``.

    Raises:
        ConfigError: The value is not a positive number with a unit that fits the cost.
    """
    suffix, unit = "", COSTS.find(cost).unit
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", value.lower())
        try:
            if match is None:
                raise ValueError(value)
            suffix = match.group(2)
            number = float(match.group(1)) * _SUFFIXES.get(unit, {unit.lower(): 1.0})[suffix]
        except (ValueError, KeyError):
            raise ConfigError(
                f"budget.{cost}: expected a fraction such as 0.3 or an amount such as "
                f'"{_EXAMPLES.get(unit, f"5{unit}")}", but got {value!r}'
            ) from None
    elif isinstance(value, bool):
        raise ConfigError(f"budget.{cost}: expected a number, but got {value!r}")
    else:
        number = float(value)
    if not (number > 0 and np.isfinite(number)):
        raise ConfigError(f"budget.{cost}: must be above 0, but got {value!r}")
    return Amount(number, is_fraction=not suffix and number <= 1.0)


def _lower(cost: str, value: float) -> str:
    """Write a bound for a message, rounded down: no cost above it looks as if it were met."""
    return f"{np.floor(value):,.0f}" if _is_whole(cost) else f"{value:,.4f}{_after(cost)}"


def _upper(cost: str, value: float) -> str:
    """Write a cost for a message, rounded up: the value named is itself accepted as a bound."""
    if _is_whole(cost):
        return f"{np.ceil(value):,.0f}"
    return f"{_multiple(value, 1.0):,.4f}{_after(cost)}"


def _is_whole(cost: str) -> bool:
    return cost in COSTS.built_in and cost != LATENCY


def _after(cost: str) -> str:
    return f" {unit}" if (unit := COSTS.find(cost).unit) else ""


def _multiple(value: float, unit: float) -> float:
    """Return a multiple of a unit, in four places, that is no less than a value."""
    multiple = float(np.ceil(1e4 * value / unit) / 1e4)
    return multiple if multiple * unit >= value else multiple + 1e-4
