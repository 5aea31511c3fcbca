from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from live_memory import live_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor


def _random(compressor: Compressor, count: int) -> list[Levels]:
    rng = np.random.default_rng(0)
    return [rng.integers(compressor.space.full + 1) for _ in range(count)]


def _counted(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    macs = counter.get_total_flops() // 2
    return {
        "macs": macs,
        "bops": macs * 32 * 32,
        "peak_memory_bytes": int(live_bytes(model, inputs).max()),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "size_bytes": sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    }


@pytest.mark.parametrize("name", zoo.ZOO)
def test_costs_are_those_of_the_physical_model(name: str) -> None:
    model = zoo.make(name)
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    candidates = [compressor.space.full, compressor.space.smallest]
    for levels in candidates + _random(compressor, 20):
        physical = compressor.cut(model, levels)
        assert compressor.costs.costs(levels) == _counted(physical, zoo.EXAMPLE)


def test_costs_of_a_known_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 10)
    ).eval()
    compressor = Compressor.prepare(model, (torch.zeros(1, 3, 4, 4),), SpaceConfig())
    for width in (1, 2, 4):
        parameters = (3 * 9 * width + width) + (16 * width * 10 + 10)
        macs = 16 * 3 * 9 * width + 16 * width * 10
        assert compressor.costs.costs(compressor.space.nearest(np.array([width]))) == {
            "macs": macs,
            "bops": macs * 32 * 32,
            # The image and the convolution's output, or that and the ReLU's.
            "peak_memory_bytes": 4 * 16 * max(3 + 2 * width, width),
            "params": parameters,
            "size_bytes": 4 * parameters,
        }


def test_buffers_count_as_bytes_but_not_as_parameters() -> None:
    model = nn.Sequential(
        nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False)
    ).eval()
    compressor = Compressor.prepare(model, (torch.zeros(1, 2),), SpaceConfig())
    costs = compressor.costs.costs(compressor.space.nearest(np.array([3])))
    assert costs["params"] == 2 * 3 + 2 * 3 + 3 * 2
    assert costs["size_bytes"] == 4 * (costs["params"] + 2 * 3) + 8  # and an int64 counter


def test_buffers_that_are_not_saved_cost_nothing() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 4, bias=False)
            self.last = nn.Linear(4, 2, bias=False)
            self.register_buffer("scale", torch.ones(100), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x))) * self.scale[0]

    compressor = Compressor.prepare(Scaled().eval(), (torch.zeros(1, 2),), SpaceConfig())
    assert compressor.costs.costs(compressor.space.nearest(np.array([4])))["size_bytes"] == 4 * 16


def test_operations_without_a_layer_are_a_fixed_cost_with_a_note() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(torch.relu(self.first(x)))
            return y @ torch.ones(3, 3)

    compressor = Compressor.prepare(Gram().eval(), (torch.zeros(1, 2),), SpaceConfig())
    assert compressor.costs.model.fixed_macs == 9
    assert (
        compressor.costs.costs(compressor.space.nearest(np.array([2])))["macs"] == 2 * 2 + 2 * 3 + 9
    )
    assert any("9 MACs are in operations without a layer" in note for note in compressor.notes)


def test_costs_of_a_group_are_those_of_all_tensors_that_it_touches() -> None:
    model = zoo.make("plain")
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    costs = compressor.costs
    full = compressor.space.full
    assert compressor.space.full_amounts.tolist() == [8, 12, 20]
    conv1, conv2, fc1, fc2 = 64 * 9 * 8, 16 * 9 * 8 * 12, 192 * 20, 20 * 10
    found = [costs.macs_of(group, full) for group in range(3)]
    assert found == [conv1 + conv2, conv2 + fc1, fc1 + fc2]
    assert (
        costs.macs_of(0, compressor.space.nearest(np.array([4, 6, 20]))) == conv1 // 2 + conv2 // 4
    )
    assert costs.params_of(0, full) == (9 * 8 + 8) + 2 * 8 + 9 * 8 * 12
    assert costs.params_of(2, full) == 192 * 20 + 20 + 200
