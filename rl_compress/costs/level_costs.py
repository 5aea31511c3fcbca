"""Exact costs of every variant, from one look at the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import CountedModel, Variants
from rl_compress.costs.lazy import LazyCosts
from rl_compress.errors import ConfigError
from rl_compress.registry import COSTS, running
from rl_compress.space.search_space import Levels

_BASES = 8
"""Random variants around which a cost of the user's own is tried."""


class LevelCosts:
    """Costs as functions of levels."""

    def __init__(self, model: CountedModel) -> None:
        """Count the costs that are built in."""
        self.model = model
        self._costs: dict[str, Cost] = {}
        self.original: dict[str, float] = {}
        """Costs of the uncompressed, unquantized target, in the order in which they are shown."""
        for name in COSTS.built_in:
            if not (made := COSTS.find(name)).predicted:
                self.add(name, made())

    def add(self, name: str, cost: Cost) -> None:
        """Count another cost from now on."""
        with running(cost, name):
            cost.look_at(self.model)
        self._costs[name] = cost
        self.original[name] = self._of(name, self.model.whole)[0].item()

    def add_own(self, name: str, key: str) -> None:
        """Count a cost of the user's own.

        Args:
            name: Its import path.
            key: The job's, for messages.

        Raises:
            ConfigError: It cannot be imported, fails, or returns what is no cost.
        """
        made, config = COSTS.load(name, key=key)
        try:
            self.add(name, made(config))
            self._check_growth(name)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from error

    def costs(self, levels: Levels) -> dict[str, float]:
        """Return every cost of a variant, whose levels have shape ``(D,)``.

        Returns:
            By name: whole numbers where they are exact.
        """
        found = self.batch(levels[None])
        return {cost: values[0].item() for cost, values in found.items()}

    def batch(self, levels: Levels) -> Mapping[str, npt.NDArray[Any]]:
        """Return every cost of many variants at once.

        Args:
            levels: Shape ``(variants, D)``.

        Returns:
            By cost an array of shape ``(variants,)``.
        """
        variants = Variants(self.model, levels)
        return LazyCosts(tuple(self._costs), lambda cost: self._of(cost, variants))

    def macs_of(self, dimension: int, levels: Levels) -> int:
        """Return the MACs of all operations whose size or bits a dimension decides."""
        _, touched = self.model.touched(dimension)
        return int(Variants(self.model, levels[None]).macs[0] @ touched)

    def params_of(self, dimension: int, levels: Levels) -> int:
        """Return the parameters of all tensors whose size or bits a dimension decides."""
        touched, _ = self.model.touched(dimension)
        elements = Variants(self.model, levels[None]).tensors.elements[0]
        return int((elements * touched) @ self.model.is_parameter)

    def _of(self, name: str, variants: Variants) -> npt.NDArray[Any]:
        """Return a cost of variants, shape ``(variants,)``."""
        cost = self._costs[name]
        if name in COSTS.built_in:
            return cost.of(variants)
        with running(cost, name):
            found = np.asarray(cost.of(variants))
        count = len(variants.levels)
        if found.shape != (count,) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
            raise ConfigError(
                f"{name}: of() must return an array of {count} finite numbers for {count} "
                f"variants, but got {_shown(found)}"
            )
        return found

    def _check_growth(self, name: str) -> None:
        """Try a cost: it must be positive, and not fall where more is kept.

        Raises:
            ConfigError: It is or does.
        """
        space = self.model.space
        if not self.original[name] > 0:
            raise ConfigError(
                f"{name}: the uncompressed target's is {self.original[name]:g}, but must be above 0"
            )
        rng = np.random.default_rng(0)
        rows = np.arange(len(space))
        drawn = rng.integers(space.full + 1, size=(_BASES, len(space)))
        for base in [space.smallest, space.full, *drawn]:
            lower, upper = np.tile(base, (2, len(space), 1))
            lower[rows, rows], upper[rows, rows] = 0, space.full
            costs = self.batch(np.concatenate([lower, upper]))[name]
            less, more = costs[: len(rows)], costs[len(rows) :]
            if (falls := np.flatnonzero(more < less - 1e-9 * np.abs(less))).size:
                own = space.dimensions[falls[0]]
                raise ConfigError(
                    f"{name}: it falls from {less[falls[0]]:g} to {more[falls[0]]:g} where "
                    f"{own.label} is left whole; a budget needs costs that do not fall where more "
                    f"is kept"
                )


def _shown(values: npt.NDArray[Any]) -> str:
    if values.dtype.kind in "iuf" and values.ndim == 1:
        return f"{len(values)} of which {int((~np.isfinite(values)).sum())} are not"
    return f"shape {values.shape} of {values.dtype}"
