from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from live_memory import live_bytes
from torch import Tensor, nn

from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_prediction_is_what_a_traced_variant_needs(name: str) -> None:
    compressor = Compressor.prepare(zoo.make(name), zoo.EXAMPLE, SpaceConfig())
    build, predict = compressor.variant, compressor.costs.costs
    rng = np.random.default_rng(0)
    for _ in range(20):
        levels = rng.integers(compressor.space.full + 1)
        seen = live_bytes(build(levels), zoo.EXAMPLE).max()
        assert predict(levels)["peak_memory_bytes"] == seen


def test_live_bytes_of_a_chain() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    # The caller holds the input; a layer's output dies when the next one is done with it.
    assert live_bytes(model, (torch.zeros(1, 4),)).tolist()[-1] == 4 * (4 + 8 + 2)
    assert live_bytes(model, (torch.zeros(1, 4),)).max() == 4 * (4 + 8 + 8)


def test_a_shortcut_keeps_its_activation_alive() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            kept = self.first(x)
            x = torch.relu(kept)
            x = self.second(x)
            return x + kept

    assert live_bytes(Skip(), (torch.zeros(1, 4),)).max() == 4 * 4 * 4


def test_views_and_in_place_operations_take_nothing() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            return x.relu_().flatten(1).unsqueeze(0)

    assert live_bytes(InPlace(), (torch.zeros(1, 2, 3),)).max() == 2 * 4 * 6
