"""Levels of the shared network: made when they are first needed, and the same whenever that is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo

from rl_compress.errors import ConfigError
from rl_compress.model.axes import quantizable_weights
from rl_compress.quantizers.bits import Bits
from rl_compress.quantizers.quantized_tensor import quantize_tensor
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants import slimmable
from rl_compress.variants.compressor import Compressor
from rl_compress.variants.slimmable import SlimmableNetwork

SPACE = SpaceConfig.model_validate({"quantization": {"weight_bits": [2, 4, 16]}, "protect": []})


def prepared() -> tuple[Compressor, SlimmableNetwork]:
    compressor = Compressor.prepare(zoo.make("residual"), zoo.EXAMPLE, SPACE)
    assert isinstance(compressor.network, SlimmableNetwork)
    return compressor, compressor.network


def test_a_variant_makes_the_levels_that_it_is_made_of() -> None:
    compressor, network = prepared()
    assert not network.levels
    network.uncompressed()
    network.variant(compressor.space.full_widths)
    network.variant(compressor.space.smallest_widths, levels=False)
    assert not network.levels
    network.variant(compressor.space.smallest_widths)
    assert set(network.levels) == {f"{name}@2" for name in network.bits}


def test_levels_are_the_quantized_weights_whenever_they_are_made() -> None:
    compressor, network = prepared()
    network.variant(compressor.space.smallest_widths)
    shared = compressor.shared_tensors(levels=True)
    axes = quantizable_weights(network.skeleton)
    assert set(shared) == set(network.tensors) | {f"{name}@{b}" for name in axes for b in (2, 4)}
    for name, axis in axes.items():
        for bits in (2, 4):
            config = SPACE.quantization.model_copy(update={"weight_bits": bits})
            found = quantize_tensor(network.tensors[name], config, output_axis=axis)
            assert torch.equal(shared[f"{name}@{bits}"], found.dequantize())


def test_workers_take_the_levels_that_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, network = prepared()
    shared = compressor.shared_tensors(levels=True)
    worker = compressor.without_weights().with_tensors(shared)
    monkeypatch.setattr(slimmable, "quantize_tensor", None)
    rng = np.random.default_rng(0)
    for _ in range(3):
        widths = np.array([rng.choice(group.widths) for group in compressor.space.groups])
        expected = network.variant(widths).state_dict()
        found = worker.network.variant(widths).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_levels_are_not_shared_where_none_is_used() -> None:
    compressor, network = prepared()
    assert compressor.shared_tensors(levels=False).keys() == network.tensors.keys()
    assert not network.levels


def test_a_weight_that_cannot_be_quantized_is_refused_at_once() -> None:
    model = zoo.make("plain")
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0] = float("inf")
    network = SlimmableNetwork.from_model(model, [], [])
    with pytest.raises(ConfigError, match=r"conv2\.weight: cannot be quantized"):
        network.with_levels({"conv2": Bits((2, 4), 0)}, SPACE.quantization)
