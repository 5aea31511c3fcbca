"""Sparse structures and masks: what is kept, what it costs, and that both paths agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.soft_threshold import soft_threshold
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor


def _target() -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(32, 1, 8, 8, generator=generator),
        torch.randint(0, 10, (32,), generator=generator),
    )
    return ClassificationTarget(lambda: zoo.make("plain"), dict.fromkeys(SPLITS, data))


def _prepare(structure: str, *, action: str = "ratio", **pruning: Any) -> Compressor:
    config = SpaceConfig.model_validate(
        {
            "action": action,
            "pruning": {"structure": structure, **pruning},
            "skip": ["conv1"] if structure != "channels" else [],
            "max_mask_units": 10_000,
        }
    )
    return Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, config, target=_target())


def _random(compressor: Compressor, seed: int) -> Levels:
    rng = np.random.default_rng(seed)
    return rng.integers(compressor.space.full + 1)


def test_single_weights_go_from_the_smallest() -> None:
    compressor = _prepare("weights", importance="l1")
    levels = compressor.space.smallest
    weight = zoo.make("plain").fc1.weight
    mask = compressor.masks(levels)["fc1.weight"]
    assert int(mask.sum()) == compressor.space.amounts(levels)[1]
    assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.parametrize(("structure", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_n_of_m_neighbours_stay_and_they_are_the_largest(structure: str, n: int, m: int) -> None:
    compressor = _prepare(structure, importance="l1")
    masks = compressor.masks(compressor.space.smallest)
    for name, mask in masks.items():
        rows = mask.flatten(1)
        assert (rows.reshape(-1, m).sum(dim=1) == n).all(), name
        weights = zoo.make("plain").get_parameter(name).detach().abs().flatten(1).reshape(-1, m)
        kept = rows.reshape(-1, m)
        least = weights.masked_fill(~kept, torch.inf).amin(dim=1)
        assert (least >= weights.masked_fill(kept, 0).amax(dim=1)).all()


def test_blocks_stay_or_go_whole() -> None:
    compressor = _prepare("blocks", block_shape=(2, 4))
    mask = compressor.masks(_random(compressor, 1))["fc1.weight"]
    blocks = mask.reshape(10, 2, 48, 4).permute(0, 2, 1, 3).flatten(2).sum(dim=2)
    assert set(blocks.unique().tolist()) <= {0, 8}


def test_macs_are_those_of_the_weights_that_stay() -> None:
    compressor = _prepare("weights")
    levels = compressor.space.full
    levels[0] //= 2  # conv2: 16 positions for each of its weights
    amounts = compressor.space.amounts(levels)
    gone = compressor.space.full_amounts[0] - amounts[0]
    costs = compressor.costs.costs(levels)
    assert compressor.costs.original["macs"] - costs["macs"] == 16 * gone
    assert compressor.costs.macs_of(0, levels) == 16 * amounts[0]
    assert compressor.costs.params_of(1, levels) == amounts[1]


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_masks_over_channels_agree_on_both_paths(name: str) -> None:
    model = zoo.make(name)
    config = SpaceConfig(action="mask")
    compressor = Compressor.prepare(model, zoo.EXAMPLE, config)
    assert {own.amounts for own in compressor.space.dimensions} == {(0, 1)}
    inputs = torch.randn(3, 1, 8, 8)
    for seed in range(4):
        levels = _random(compressor, seed)
        cut = compressor.cut(model, levels)
        expected = cut.eval()(inputs)
        torch.testing.assert_close(
            compressor.variant(levels)(inputs), expected, atol=1e-5, rtol=1e-4
        )
        params = sum(p.numel() for p in cut.parameters())
        assert compressor.costs.costs(levels)["params"] == params
        kept = compressor.kept_outputs(levels, ordered=False)
        assert {k: v.tolist() for k, v in kept.items()} == {
            k: v.tolist() for k, v in compressor.kept_outputs(levels, ordered=True).items()
        }


def test_no_layer_vanishes_under_a_mask() -> None:
    compressor = _prepare("channels", action="mask")
    nothing = compressor.space.smallest
    assert nothing.sum() == 0
    smallest = compressor.variant(nothing)
    assert smallest.conv1.out_channels == smallest.conv2.out_channels == 1
    assert smallest(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_a_mask_over_single_weights_is_the_mask() -> None:
    model = nn.Sequential(nn.Linear(6, 1)).eval()
    config = SpaceConfig.model_validate({"action": "mask", "pruning": {"structure": "weights"}})
    compressor = Compressor.prepare(model, (torch.zeros(1, 6),), config)
    assert compressor.space.sites == [f"0[{i}]" for i in range(6)]
    levels = np.array([1, 0, 0, 1, 1, 0])
    variant = compressor.variant(levels)
    assert torch.equal(variant[0].weight, model[0].weight * torch.from_numpy(levels))
    assert compressor.costs.costs(levels)["params"] == 4
    policy = compressor.space.policy_of(levels)
    assert policy["0[1]"].pruning_ratio == 1.0
    assert compressor.space.levels_of(policy).tolist() == levels.tolist()


def test_workers_rebuild_the_network_from_its_tensors() -> None:
    compressor = _prepare("weights")
    bare = compressor.without_weights()
    assert bare.network.tensors == {}
    again = bare.with_tensors(compressor.network.tensors)
    levels = _random(compressor, 0)
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.variant(levels)(inputs), compressor.variant(levels)(inputs))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action": "mask", "max_mask_units": 10}, r"mask over .* units .*max_mask_units \(10\)"),
        ({"action": "mask", "pruning": {"structure": "2:4"}}, "space.action: mask"),
        ({"pruning": {"structure": "blocks", "block_shape": [7, 7]}}, "block_shape"),
        ({"pruning": {"structure": "5:7"}}, r"structure: 5:7 fits no layer"),
        ({"pruning": {"structure": "weights", "importance": "batchnorm"}}, "importance: batchnorm"),
        ({"pruning": {"importance": "taylor"}}, "taylor needs a target"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(space: dict[str, Any], message: str) -> None:
    config = SpaceConfig.model_validate(space)
    with pytest.raises(ConfigError, match=message):
        Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, config)


def test_soft_shrinkage_brings_what_stays_closer_to_zero_and_leaves_a_whole_weight_alone() -> None:
    config = SpaceConfig.model_validate(
        {"pruning": {"structure": "weights", "importance": "contribution"}, "skip": ["conv*"]}
    )
    settings = ContributionConfig(iterations=1, epsilon=0.01, shrinkage="soft", exact_units=0)
    model = zoo.make("plain")
    compressor = Compressor.prepare(
        model, zoo.EXAMPLE, config, target=_target(), contribution=settings
    )
    levels = compressor.space.full
    levels[1] = 0  # fc2
    cut = compressor.cut(model, levels)
    assert torch.equal(cut.fc1.weight, model.fc1.weight)
    mask = compressor.masks(levels)["fc2.weight"]
    expected = soft_threshold(model.fc2.weight, 0.01) * mask
    assert torch.equal(cut.fc2.weight, expected)
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(compressor.variant(levels)(inputs), cut(inputs))
