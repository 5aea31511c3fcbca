"""What every transform must hold to, the user's own as well."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_target import TinyNet
from torch import Tensor, nn

from rl_compress.export.packed_state import Packing, pack_state, stored_bytes, unpack_state
from rl_compress.importance.units import Units
from rl_compress.quantizers.model import Quantization, quantize_weights
from rl_compress.registry import TRANSFORMS
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

OWN = "own_structure:KernelRows"
STRUCTURES = [
    *(name if name != "N:M" else "2:4" for name in TRANSFORMS.built_in),
    OWN,
    "own_structure:PowersOfTwo",
]
BITS: dict[str, Any] = {"weight_bits": [2, 4, 8], "activation_bits": [4, 8]}
INPUTS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@functools.cache
def _network() -> nn.Module:
    torch.manual_seed(0)
    model = TinyNet().train()
    model(torch.randn(64, 1, 8, 8))  # statistics that are not those of a new network
    return model.eval()


@functools.cache
def _prepared(structure: str, *, action: str = "ratio", bits: bool = False) -> Compressor:
    options = {"keep_middle": True} if structure == OWN else {}
    pruning = {"structure": structure, "structure_options": options, "block_shape": (2, 4)}
    space = {
        "action": action,
        "max_mask_units": 100_000,
        "pruning": pruning,
        "quantization": BITS if bits else {},
        "skip": ["conv1"],
    }
    return Compressor.prepare(_network(), (INPUTS[:1],), SpaceConfig.model_validate(space))


def _some_of_each(compressor: Compressor) -> list[Levels]:
    """Return the full levels with one dimension at each of a few of its choices, and mixtures."""
    full = compressor.space.full
    found = [full, compressor.space.smallest]
    for index, level in enumerate(full):
        for chosen in {0, int(level) // 2, int(level) - 1} - {-1}:
            found.append(full.copy())
            found[-1][index] = chosen
    drawn = np.random.default_rng(0).integers(full + 1, size=(4, len(full)))
    return [*found[:: max(1, len(found) // 12)], *drawn]


def _without(compressor: Compressor, levels: Levels) -> nn.Module:
    """Return the original with what a variant lacks multiplied by zero, at full size."""
    model = copy.deepcopy(_network())
    factors: dict[str, Tensor] = dict(compressor.masks(levels))
    amounts = compressor.space.amounts(levels)
    units = Units.channels(model, compressor.parents)
    starts = np.cumsum([0, *units.sizes])
    kept = torch.ones(units.num_units)
    for start, order, amount in zip(starts, compressor.orders, amounts, strict=False):
        kept[start + order[amount:]] = 0
    factors |= units.multipliers(kept)
    with torch.no_grad():
        for name, factor in factors.items():
            model.get_parameter(name).mul_(factor)
    return model


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_variant_is_the_original_without_what_was_removed(structure: str) -> None:
    compressor = _prepared(structure)
    with torch.no_grad():
        for levels in _some_of_each(compressor):
            found, cut = compressor.variant(levels), compressor.cut(_network(), levels)
            expected = _without(compressor, levels)(INPUTS)
            torch.testing.assert_close(found(INPUTS), expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(cut(INPUTS), expected, atol=1e-5, rtol=1e-4)
        full = compressor.variant(compressor.space.full)
        torch.testing.assert_close(full(INPUTS), _network()(INPUTS))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_choices_are_ordered_and_what_fewer_units_keep_is_kept_by_more(structure: str) -> None:
    compressor = _prepared(structure)
    space = compressor.space
    for index, (own, parent) in enumerate(zip(space.dimensions, compressor.parents, strict=True)):
        assert list(own.amounts) == sorted(set(own.amounts))
        assert own.is_open
        assert own.full == parent.num_units == len(compressor.importances[index])
        sets = []
        for level in sorted({0, 1, len(own.amounts) // 2, len(own.amounts) - 1}):
            levels = space.full
            levels[index] = level
            masks = [mask.reshape(-1) for mask in compressor.masks(levels).values()]
            outputs = compressor.kept_outputs(levels, ordered=False)
            sets.append(
                {
                    (i, j)
                    for i, mask in enumerate(masks)
                    for j in mask.nonzero().reshape(-1).tolist()
                }
                | {(layer, j) for layer, kept in outputs.items() for j in kept.tolist()}
            )
        assert all(less < more for less, more in itertools.pairwise(sets))


def _macs(model: nn.Module, masks: dict[str, Tensor]) -> int:
    """Count each weight that is not masked once for every place that it is used at."""
    total = 0

    def count(name: str, layer: nn.Module, outputs: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        kept = int(masks[f"{name}.weight"].sum()) if f"{name}.weight" in masks else weight.numel()
        total += kept * (outputs.numel() // weight.shape[0])

    handles = [
        layer.register_forward_hook(lambda own, _, out, name=name: count(name, own, out))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    with torch.no_grad():
        model(INPUTS[:1])
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("bits", [False, True])
def test_costs_are_counted_from_the_delivered_tensors(structure: str, bits: bool) -> None:
    compressor = _prepared(structure, bits=bits)
    original, space = compressor.costs.original, compressor.space
    candidates = _some_of_each(compressor)
    table = compressor.costs.batch(np.array(candidates))
    for row, levels in enumerate(candidates):
        masks = compressor.masks(levels)
        cut = compressor.cut(_network(), levels)
        found = compressor.costs.costs(levels)
        assert found == {cost: values[row] for cost, values in table.items()}
        removed = sum(int((~mask).sum()) for mask in masks.values())
        assert found["params"] == sum(p.numel() for p in cut.parameters()) - removed
        assert found["macs"] == _macs(cut, masks)
        layer_bits = compressor.layer_bits(levels).weights
        quantized = quantize_weights(cut, compressor.config.quantization, layer_bits)
        stored, described = pack_state(cut.state_dict(), Packing(Quantization(quantized), masks))
        assert found["size_bytes"] == stored_bytes(stored)
        for name, values in unpack_state(stored, described).items():
            torch.testing.assert_close(values, cut.state_dict()[name] * masks.get(name, 1))
    if not bits:
        assert compressor.costs.costs(space.full) == original
    assert original["macs"] == _macs(_network(), {})
    assert original["params"] == sum(p.numel() for p in _network().parameters())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("action", ["ratio", "mask"])
def test_policies_stand_for_levels_after_a_round_trip_too(structure: str, action: str) -> None:
    if action == "mask" and structure == "2:4":
        return
    compressor = _prepared(structure, action=action, bits=action == "ratio")
    full = compressor.space.full
    for levels in np.random.default_rng(0).integers(full + 1, size=(2, len(full))):
        policy = compressor.space.policy_of(levels)
        again = CompressionPolicy.from_json(policy.to_json())
        assert again == policy
        assert compressor.space.levels_of(again).tolist() == levels.tolist()


@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "2:4"])
def test_masks_decide_the_same_units_one_by_one(structure: str) -> None:
    by_ratio, by_mask = _prepared(structure), _prepared(structure, action="mask")
    ratio = np.random.default_rng(0).integers(by_ratio.space.full + 1)
    amounts = by_ratio.space.amounts(ratio)
    kept = {
        f"{parent.name}[{unit}]"
        for parent, scores, amount in zip(
            by_ratio.parents, by_ratio.importances, amounts, strict=True
        )
        for unit in np.argsort(-scores, kind="stable")[:amount]
    }
    mask = np.array([own.site in kept for own in by_mask.space.dimensions], dtype=np.int64)
    assert by_mask.costs.costs(mask) == by_ratio.costs.costs(ratio)
    with torch.no_grad():
        found, expected = (
            compressor.variant(levels)(INPUTS)
            for compressor, levels in ((by_mask, mask), (by_ratio, ratio))
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_bits_are_those_chosen_and_no_others_change() -> None:
    compressor = _prepared("channels", bits=True)
    space = compressor.space
    assert {own.transform for own in space.dimensions} == {
        "channels",
        "weight_bits",
        "activation_bits",
    }
    for index, own in enumerate(space.dimensions):
        for level, amount in enumerate(own.amounts if not own.prunes else ()):
            levels = space.full
            levels[index] = level
            assert list(own.amounts) == sorted(BITS[own.transform])
            bits = compressor.layer_bits(levels)
            assert (bits.weights | {}).get(own.site) == (
                amount if own.decides == "weight_bits" else 8
            )
            weight = compressor.variant(levels).get_parameter(f"{own.site}.weight")
            if own.decides == "weight_bits":
                assert max(len(row.unique()) for row in weight) <= 2**amount
