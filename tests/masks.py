"""A linear model whose single weights are the units, with prices; stands in for a compressor."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from looped_batch import LoopedBatch
from torch import nn

from rl_compress.space.search_space import Dimension, Levels, SearchSpace


class MaskedLinear:
    """Builds linear layers with zeros in place of the weights removed."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = torch.tensor([list(weights)])

    def variant(self, levels: Levels) -> nn.Module:
        layer = nn.Linear(self.weights.shape[1], 1, bias=False)
        layer.weight = nn.Parameter(self.weights * torch.as_tensor(levels).float())
        return layer


class Prices(LoopedBatch):
    """Costs that are sums of the prices of the units kept."""

    def __init__(self, prices: Sequence[int]) -> None:
        self.prices = np.array(prices)

    def costs(self, levels: Levels) -> dict[str, int]:
        total = int(np.asarray(levels) @ self.prices)
        names = ("macs", "params", "size_bytes", "bops", "peak_memory_bytes")
        return dict.fromkeys(names, total)


def mask_space(num_units: int) -> SearchSpace:
    return SearchSpace(tuple(Dimension(f"unit{i}", "channels", (0, 1)) for i in range(num_units)))


def make_compressor(weights: Sequence[float], prices: Sequence[int] | None = None) -> Any:
    return SimpleNamespace(
        space=mask_space(len(weights)),
        variant=MaskedLinear(weights).variant,
        costs=Prices(prices or [1] * len(weights)),
        importances=[np.abs([weight]) for weight in weights],
    )
