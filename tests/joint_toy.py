"""A joint problem of widths and bits whose rewards are a formula, with curves that are wrong."""

from __future__ import annotations

import numpy as np
from looped_batch import LoopedBatch

from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Amounts, Dimension, Levels, SearchSpace

LAYERS = 6
BITS = (2, 3, 4, 6, 8)
SPACE = SearchSpace(
    (
        *(Dimension(f"g{i}", "channels", tuple(range(2, 17))) for i in range(LAYERS)),
        *(Dimension(f"g{i}", "weight_bits", BITS) for i in range(LAYERS)),
    )
)
BUDGET = Budget((("size_bytes", 16.0 * 8 * LAYERS * 0.4),))


class Sizes(LoopedBatch):
    """Every channel takes its bits."""

    def __init__(self, space: SearchSpace = SPACE) -> None:
        super().__init__(space)

    def of(self, amounts: Amounts) -> dict[str, float]:
        return {"size_bytes": int(amounts[:LAYERS] @ amounts[LAYERS:])}


def curves(wrong_by: float) -> SensitivityCurves:
    """Return curves of :func:`reward`'s losses, each multiplied by a random factor."""
    factors = np.exp(np.random.default_rng(5).normal(0.0, wrong_by, len(SPACE)))
    amounts = tuple(own.amounts[::-1] for own in SPACE.dimensions)
    scores = tuple(
        tuple(-float(factor * loss(index, amount)) for amount in own)
        for index, (own, factor) in enumerate(zip(amounts, factors, strict=True))
    )
    names = tuple(own.site for own in SPACE.dimensions)
    return SensitivityCurves(names, amounts, scores, tuple(d.decides for d in SPACE.dimensions))


def loss(dimension: int, amount: float) -> float:
    """Return what a dimension loses alone."""
    given_up = 1.0 - amount / SPACE.dimensions[dimension].full
    return (1 + dimension % LAYERS) * given_up**2


def reward(levels: Levels) -> float:
    """Return what dimensions lose alone, and what they lose together."""
    alone = sum(loss(i, amount) for i, amount in enumerate(SPACE.amounts(levels).tolist()))
    given_up = 1.0 - SPACE.kept(levels)
    return -(alone + 4.0 * float(given_up[:LAYERS] @ given_up[LAYERS:])) / 10.0
