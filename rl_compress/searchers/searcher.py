"""What all searches without a learned agent have in common.

A searcher proposes what to keep (``ask``) and hears of the reward (``tell``). Candidates are
projected onto the budget as the agent's are. The seed and the rewards decide all proposals, so that
a resumed run repeats its first part from the stored records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from rl_compress.registry import SEARCHERS, Part
from rl_compress.searchers.problem import Problem

Needs = Literal["nothing", "curves", "contributions"]

Keep = npt.NDArray[np.float64]
"""Which fraction of each dimension to keep, shape ``(D,)``; need not be that of a level."""


class Searcher(Part, ABC):
    """A search that needs no gradient."""

    fill: ClassVar[bool] = True
    """Whether candidates that leave budget unused are scaled up to it."""
    needs: ClassVar[Needs] = "nothing"
    """What must be measured for it beforehand."""
    seeded: ClassVar[bool] = True
    """Whether the seed makes a difference."""

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Begin a search.

        Args:
            problem: What is searched.
            config: The options, an instance of ``Config``.
        """
        super().__init__(config)
        self.problem = problem

    @abstractmethod
    def ask(self) -> Keep | None:
        """Return the next candidate, or None when there is no other."""

    def tell(self, keep: Keep, reward: float) -> None:
        """Hear the reward of the candidate asked for last, as it was carried out.

        Args:
            keep: What the projection onto the budget made of it.
            reward: Minus infinity where it could not be evaluated.
        """


def make_searcher(
    name: str, problem: Problem, options: Mapping[str, Any] | None = None
) -> Searcher:
    """Return a searcher.

    Args:
        name: As :data:`~rl_compress.registry.SEARCHERS` knows it, or ``package.module:Class``.
        problem: What is searched.
        options: Those of its ``Config``.

    Raises:
        ConfigError: There is no such searcher or option, or it lacks a package.
    """
    made, config = SEARCHERS.load(name, options, key="search.algorithm")
    return made(problem, config)
