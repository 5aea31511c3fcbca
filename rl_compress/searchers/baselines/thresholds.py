"""Baselines that put one threshold on the importance of all units.

They know of no bits. Where these are searched too, both begin with the most bits everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.space.search_space import SearchSpace

_STEP = 0.98
"""Factor from one number of units kept in all to the next."""


class Global(Searcher):
    """Global ranking: all units compete, where uniform pruning ranks within each group.

    Importances are divided by their mean over the group, or over the layer that single units are
    in, so that no layer wins by its scale. First at the budget, then ever tighter; and then again
    with fewer bits everywhere, if bits are searched.
    """

    fill = False
    seeded = False

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Rank all units."""
        super().__init__(problem, config)
        self._space, self._budget, self._costs = problem.space, problem.budget, problem.costs
        self._relative = _by_layer_mean(problem.importances, problem.layers)
        self._sorted = np.sort(np.concatenate(self._relative))[::-1]
        self._count = float(len(self._sorted))
        self._bits = _bits_of(problem.space)

    def ask(self) -> Keep | None:
        """Return the next candidate within the budget."""
        while self._bits:
            while self._count >= 1:
                threshold = self._sorted[int(self._count) - 1]
                # Steps of at least one unit, or the last ones would take forever.
                self._count = min(self._count * _STEP, self._count - 1)
                wanted = self._space.full_amounts + 0.0
                wanted[self._space.prunes] *= [(x >= threshold).mean() for x in self._relative]
                wanted[~self._space.prunes] = self._bits[0]
                levels = self._space.floor(wanted)
                if self._budget.admits(self._costs.costs(levels)):
                    return self._space.kept(levels)
            self._bits = self._bits[1:]
            self._count = float(len(self._sorted))
        return None


class Contribution(Searcher):
    """Contribution pruning by itself: what it kept, then what other thresholds would have kept.

    After the first candidate the others come from the same contributions, with thresholds tighter
    and looser than the job's in turn.
    """

    fill = False
    needs = "contributions"
    seeded = False

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Collect the thresholds."""
        super().__init__(problem, config)
        result, threshold = problem.contribution, problem.contribution_threshold
        assert result is not None, "it is said to need it"
        self._prunes = problem.space.prunes
        self._first: Keep | None = self._with_bits(result.kept_fractions())
        self._contributions = result.by_group()
        found = np.unique(np.concatenate(self._contributions))
        tighter, looser = found[found > threshold], found[found <= threshold][::-1]
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(tighter, looser))
        # Just below a contribution it is kept.
        self._thresholds = (np.nextafter(x, -np.inf) for x in in_turn if x is not None)

    def ask(self) -> Keep | None:
        """Return what was kept, then what the next threshold keeps."""
        if self._first is not None:
            keep, self._first = self._first, None
            return keep
        threshold = next(self._thresholds, None)
        if threshold is None:
            return None
        return self._with_bits([(scores > threshold).mean() for scores in self._contributions])

    def _with_bits(self, kept: npt.ArrayLike) -> Keep:
        """Extend fractions of units by the most bits; the projection lowers both together."""
        keep = np.ones(len(self._prunes))
        keep[self._prunes] = kept
        return keep


def _bits_of(space: SearchSpace) -> list[int]:
    """Return every number of bits that a dimension may take, the most first; at least one."""
    bits = {bits for own in space.dimensions if not own.prunes for bits in own.amounts}
    return sorted(bits, reverse=True) or [0]


def _by_layer_mean(
    importances: Sequence[npt.NDArray[np.float64]], layers: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    pooled: dict[str, list[npt.NDArray[np.float64]]] = {}
    for scores, layer in zip(importances, layers, strict=True):
        pooled.setdefault(layer, []).append(scores)
    means = {layer: abs(np.concatenate(parts)).mean() for layer, parts in pooled.items()}
    return [
        scores / max(means[layer], np.finfo(np.float64).tiny)
        for scores, layer in zip(importances, layers, strict=True)
    ]
