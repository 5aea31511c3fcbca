"""Variants whose groups decide units and bits together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator, prepare_variant
from rl_compress.export.packed_state import Packing, pack_state, stored_bytes
from rl_compress.model.axes import quantizable_weights
from rl_compress.quantizers.model import Quantization, quantize_weights
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor

QUANTIZED = {"weight_bits": [2, 4, 8], "activation_bits": [4, 8]}


def prepare(name: str, **space: object) -> tuple[nn.Module, Compressor]:
    model = zoo.make(name)
    config = SpaceConfig.model_validate({"quantization": QUANTIZED, **space})
    return model, Compressor.prepare(model, zoo.EXAMPLE, config)


def draw(compressor: Compressor, count: int) -> list[Levels]:
    rng = np.random.default_rng(0)
    return [rng.integers(compressor.space.full + 1) for _ in range(count)]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_slices_of_quantized_weights_are_what_cutting_a_quantized_model_gives(name: str) -> None:
    model, compressor = prepare(name, protect=[])
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for levels in draw(compressor, 10):
        fast = compressor.variant(levels)
        physical = compressor.cut(compressor.quantized(model, levels), levels)
        with torch.no_grad():
            found, expected = fast(inputs), physical.eval()(inputs)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("structure", ["channels", "weights", "blocks"])
def test_costs_are_those_of_what_is_stored(structure: str) -> None:
    pruning = {"structure": structure, "block_shape": (2, 4)}
    model, compressor = prepare("plain", pruning=pruning, skip=["conv1"], protect=["fc2"])
    candidates = draw(compressor, 8)
    table = compressor.costs.batch(np.array(candidates))
    for row, levels in enumerate(candidates):
        costs = compressor.costs.costs(levels)
        assert {cost: values[row] for cost, values in table.items()} == costs
        cut = compressor.cut(model, levels)
        bits = compressor.layer_bits(levels).weights
        quantized = quantize_weights(cut, compressor.config.quantization, bits)
        packing = Packing(Quantization(quantized), compressor.masks(levels))
        stored, _ = pack_state(cut.state_dict(), packing)
        assert costs["size_bytes"] == stored_bytes(stored)


def test_bops_are_macs_times_both_kinds_of_bits() -> None:
    _, compressor = prepare("plain", pruning={"max_ratio": 0.0}, protect=[])
    amounts = compressor.space.full_amounts.copy()
    decides = np.array([own.decides for own in compressor.space.dimensions])
    amounts[decides == "weight_bits"] = 4
    amounts[decides == "activation_bits"] = 8
    costs = compressor.costs.costs(compressor.space.nearest(amounts))
    assert costs["bops"] == costs["macs"] * 4 * 8


def test_the_first_and_the_last_layer_are_protected_where_bits_are_searched() -> None:
    _, compressor = prepare("plain")
    assert not {"conv1", "fc2"} & set(compressor.space.sites)
    bits = compressor.layer_bits(compressor.space.smallest)
    assert bits.weights == {"conv1": 8, "conv2": 2, "fc1": 2, "fc2": 8}
    assert bits.activations == {"conv1": 8, "conv2": 4, "fc1": 4, "fc2": 8}
    (reason,) = [group.reason for group in compressor.groups if group.name == "conv1"]
    assert reason is not None
    assert "space.protect" in reason


def test_protection_can_be_chosen() -> None:
    _, compressor = prepare("plain", protect=["fc1"], protected_bits=16)
    names = set(compressor.space.sites)
    assert "fc1" not in names
    assert {"conv1", "fc2"} <= names
    assert "fc1" not in compressor.layer_bits(compressor.space.full).weights


def test_layers_that_share_channels_share_bits() -> None:
    _, compressor = prepare("residual", protect=[])
    names = [own.site for own in compressor.space.dimensions if own.decides == "weight_bits"]
    assert len(names) == len(set(names))
    shared = next(group for group in compressor.groups if len(group.producers) > 1)
    levels = compressor.space.smallest
    index = next(
        i
        for i, own in enumerate(compressor.space.dimensions)
        if own.site == shared.name and own.decides == "weight_bits"
    )
    levels[index] = compressor.space.dimensions[index].nearest(8)
    bits = compressor.layer_bits(levels).weights
    assert {layer for layer, number in bits.items() if number == 8} == set(shared.producers)


def test_every_quantizable_layer_has_bits() -> None:
    for name in zoo.ZOO:
        model, compressor = prepare(name)
        bits = compressor.layer_bits(compressor.space.full).weights
        assert {f"{layer}.weight" for layer in bits} == set(quantizable_weights(model))


def test_what_is_scored_is_what_is_delivered() -> None:
    data = TensorDataset(
        torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(64) % 10,
    )
    target = ClassificationTarget(lambda: zoo.make("residual"), dict.fromkeys(SPLITS, data))
    model, compressor = prepare("residual")
    config = EvaluationConfig()
    evaluator = Evaluator(target, compressor, "fidelity", config)
    inputs = torch.stack([data[i][0] for i in range(16)])
    for levels in draw(compressor, 3):
        physical = compressor.cut(compressor.quantized(model, levels), levels)
        prepare_variant(
            physical.eval(),
            model,
            target,
            config,
            compressor,
            levels,
            ordered=False,
            weights_made=True,
        )
        with torch.no_grad():
            found, expected = evaluator.variant(levels).cpu()(inputs), physical(inputs)
        # Rounding of activations may tip where sums are in another order.
        close = ((found - expected).abs() <= 1e-3 * expected.abs().max()).float().mean()
        assert close > 0.95
