from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.func import functional_call

from rl_compress.errors import ConfigError
from rl_compress.importance.soft_threshold import soft_threshold
from rl_compress.importance.units import Units
from rl_compress.model.axes import Axis, named_tensors
from rl_compress.model.groups import find_groups
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.copied_out import copied_out


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ("grouped", "shared")])
def test_zeroing_a_channel_where_it_is_read_is_as_good_as_cutting_it(name: str) -> None:
    # Networks with a norm over several channels are left out: there it is not.
    model = zoo.make(name)
    groups = find_groups(model, zoo.EXAMPLE, SpaceConfig()).groups
    groups = [group for group in groups if group.prunable and group.name not in ("fc", "fc2")]
    units = Units.channels(model, groups)
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    start = 0
    for group in groups:
        unit = int(rng.integers(group.num_units))
        ratios = torch.ones(units.num_units)
        ratios[start + unit] = 0
        start += group.num_units
        gone = [Axis(axis.tensor, axis.axis, axis.positions[[unit]]) for axis in group.axes]
        smaller = copied_out(model, gone)
        expected = smaller.eval()(inputs)
        tensors = named_tensors(model)
        scaled = {key: tensors[key] * m for key, m in units.multipliers(ratios).items()}
        torch.testing.assert_close(functional_call(model, scaled, (inputs,)), expected)


def test_a_ratio_scales_all_elements_of_its_unit_and_no_other() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4))
    units = Units.blocks(model, ["0.weight", "2.weight"], (2, 2))
    assert units.sizes == (2, 2)
    assert units.unit_names() == ["0[0]", "0[1]", "2[0]", "2[1]"]
    multipliers = units.multipliers(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert multipliers["0.weight"].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert multipliers["2.weight"].tolist() == [[3, 3], [3, 3], [4, 4], [4, 4]]
    tensors = {"0.weight": torch.arange(8.0).reshape(2, 4), "2.weight": -torch.ones(4, 2)}
    assert units.largest(tensors).tolist() == [5, 7, 1, 1]
    assert units.owners() == [["0.weight"], ["0.weight"], ["2.weight"], ["2.weight"]]


def test_single_weights_are_units_of_their_own() -> None:
    units = Units.weights(nn.Sequential(nn.Linear(3, 2)), ["0.weight"])
    assert units.maps["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_blocks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"space\.pruning\.block_shape: .*2 x 2.*0\.weight.*3 inp"
    ):
        Units.blocks(nn.Sequential(nn.Linear(3, 2)), ["0.weight"], (2, 2))


def test_soft_threshold_by_hand() -> None:
    values = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0])
    assert soft_threshold(values, 0.5).tolist() == [-1.5, 0.0, 0.0, 0.0, 0.5]
    assert torch.equal(soft_threshold(values, 0.0), values)
