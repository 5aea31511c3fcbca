"""A joint problem of widths and bits whose rewards are a formula, with curves that are wrong."""

from __future__ import annotations

import numpy as np
from looped_batch import LoopedBatch

from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import GroupChoices, SearchSpace, Widths

LAYERS = 6
BITS = (2, 3, 4, 6, 8)
SPACE = SearchSpace(
    (
        *(GroupChoices(f"g{i}", 16, tuple(range(2, 17))) for i in range(LAYERS)),
        *(GroupChoices(f"g{i}", 8, BITS, "weight_bits") for i in range(LAYERS)),
    )
)
BUDGET = Budget((("size_bytes", 16.0 * 8 * LAYERS * 0.4),))


class Sizes(LoopedBatch):
    """Every channel takes its bits."""

    def costs(self, widths: Widths) -> dict[str, float]:
        return {"size_bytes": int(widths[:LAYERS] @ widths[LAYERS:])}


def curves(wrong_by: float) -> SensitivityCurves:
    """Return curves of :func:`reward`'s losses, each multiplied by a random factor."""
    factors = np.exp(np.random.default_rng(5).normal(0.0, wrong_by, len(SPACE)))
    levels = tuple(group.widths[::-1] for group in SPACE.groups)
    scores = tuple(
        tuple(-float(factor * loss(index, level)) for level in own)
        for index, (own, factor) in enumerate(zip(levels, factors, strict=True))
    )
    names = tuple(group.name for group in SPACE.groups)
    return SensitivityCurves(names, levels, scores, tuple(g.decides for g in SPACE.groups))


def loss(dimension: int, level: float) -> float:
    """Return what a dimension loses alone."""
    given_up = 1.0 - level / SPACE.groups[dimension].num_units
    return (1 + dimension % LAYERS) * given_up**2


def reward(widths: Widths) -> float:
    """Return what dimensions lose alone, and what they lose together."""
    alone = sum(loss(index, level) for index, level in enumerate(widths.tolist()))
    given_up = 1.0 - widths / SPACE.num_units
    return -(alone + 4.0 * float(given_up[:LAYERS] @ given_up[LAYERS:])) / 10.0
