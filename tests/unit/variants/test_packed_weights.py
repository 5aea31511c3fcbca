"""Packed weights of the shared network: made when first needed, once per node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from rl_compress.errors import ConfigError
from rl_compress.model.axes import quantizable_weights
from rl_compress.quantizers.bits import Bits
from rl_compress.quantizers.quantized_tensor import quantize_tensor
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants import packed_weights
from rl_compress.variants.compressor import Compressor
from rl_compress.variants.packed_weights import PackedWeights
from rl_compress.variants.slimmable import SlimmableNetwork

SPACE = SpaceConfig.model_validate({"quantization": {"weight_bits": [2, 4, 16]}, "protect": []})


def prepared() -> tuple[Compressor, SlimmableNetwork, PackedWeights]:
    compressor = Compressor.prepare(zoo.make("residual"), zoo.EXAMPLE, SPACE)
    assert isinstance(compressor.network, SlimmableNetwork)
    assert compressor.network.packed is not None
    return compressor, compressor.network, compressor.network.packed


def test_a_variant_makes_the_weights_that_it_is_made_of() -> None:
    compressor, network, made = prepared()
    network.uncompressed()
    compressor.variant(compressor.space.full)
    compressor.variant(compressor.space.smallest, quantized=False)
    assert made.nbytes == 0
    compressor.variant(compressor.space.smallest)
    assert all((name, 2) in made and (name, 4) not in made for name in network.bits)


@pytest.mark.parametrize("expanded", [0, 1 << 20])
def test_values_are_the_quantized_weights(expanded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of the values are kept."""
    monkeypatch.setattr(packed_weights, "_EXPANDED_BYTES", expanded)
    _, network, made = prepared()
    for _ in range(2):
        for name, axis in quantizable_weights(network.skeleton).items():
            for bits in (2, 4):
                config = SPACE.quantization.model_copy(update={"weight_bits": bits})
                weight = network.tensors[name]
                found = quantize_tensor(weight, config, output_axis=axis)
                assert torch.equal(made.at(name, bits, weight), found.dequantize())


def test_processes_of_a_node_share_what_one_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressor, network, _ = prepared()
    rng = np.random.default_rng(0)
    candidates = [rng.integers(compressor.space.full + 1) for _ in range(3)]
    expected = [compressor.variant(levels).state_dict() for levels in candidates]
    compressor.with_tensors(network.tensors, tmp_path)  # puts there what the driver has made
    worker = compressor.without_weights().with_tensors(network.tensors, tmp_path)
    monkeypatch.setattr(packed_weights, "quantize_tensor", None)
    for levels, tensors in zip(candidates, expected, strict=True):
        found = worker.variant(levels).state_dict()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.items())


def test_what_is_sent_to_workers_holds_no_packed_weights() -> None:
    compressor, _, _ = prepared()
    compressor.variant(compressor.space.smallest)
    sent = compressor.without_weights().network
    assert isinstance(sent, SlimmableNetwork)
    assert sent.packed is not None
    assert sent.packed.nbytes == 0


def test_other_quantizers_have_weights_of_their_own(tmp_path: Path) -> None:
    weight = torch.randn(4, 8)
    found = []
    for name in ("symmetric", "kmeans"):
        config = SPACE.quantization.model_copy(update={"quantizer": name})
        found.append(PackedWeights(config, {"w": 0}).again(tmp_path).at("w", 2, weight))
    assert not torch.equal(*found)


def test_a_folder_that_cannot_be_written_to_fails_no_variant(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    weight = torch.randn(4, 8)
    own = PackedWeights(SPACE.quantization, {"w": 0})
    found = own.again(tmp_path / "file").at("w", 2, weight)
    assert torch.equal(found, own.at("w", 2, weight))


def test_six_bit_widths_take_no_more_than_the_model_and_a_half_again() -> None:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    quantization = {"weight_bits": [2, 3, 4, 5, 6, 8]}
    config = SpaceConfig.model_validate({"quantization": quantization})
    own = PackedWeights(config.quantization, quantizable_weights(model))
    for name in quantizable_weights(model):
        for bits in quantization["weight_bits"]:
            own.at(name, bits, model.get_parameter(name).detach())
    assert own.nbytes + size <= 2.5 * size


def test_a_weight_that_cannot_be_quantized_is_refused_at_once() -> None:
    model = zoo.make("plain")
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0] = float("inf")
    network = SlimmableNetwork.from_model(model, [], [])
    with pytest.raises(ConfigError, match=r"conv2\.weight: cannot be quantized"):
        network.with_bits({"conv2": Bits((2, 4), 0)}, SPACE.quantization)
