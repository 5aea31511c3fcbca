"""Networks in which channels, costs or files could go wrong, against what is right of them."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES, Rotary, make
from torch import Tensor, nn

from rl_compress.execution import compress
from rl_compress.export.artifact import load_compressed
from rl_compress.job import parse_job
from rl_compress.model.plain_weights import plain_weights
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

AGREEMENT = 1e-5
"""Largest difference of outputs that should be equal, relative to the largest output."""


@functools.cache
def prepared(name: str) -> tuple[nn.Module, Compressor]:
    """Return a case's network, and what can be done to it."""
    model = plain_weights(make(name))
    return model, Compressor.prepare(model, (CASES[name].example(),), SpaceConfig())


@pytest.mark.parametrize("name", CASES)
def test_layers_are_narrowed_or_left_alone_with_a_reason(name: str) -> None:
    model, compressor = prepared(name)
    smallest = compressor.variant(compressor.space.smallest)
    for layer in CASES[name].narrowed:
        assert _marks(smallest, layer).numel() < _marks(model, layer).numel(), layer
    for layer in CASES[name].alone:
        assert _outputs(smallest, layer) == _outputs(model, layer), layer
        reasons = [group.reason for group in compressor.groups if layer in group.layers]
        assert any(reasons) or any(layer in note for note in compressor.notes), layer


@pytest.mark.parametrize("name", CASES)
def test_macs_are_those_counted_by_hand(name: str) -> None:
    model, compressor = prepared(name)
    assert compressor.costs.original["macs"] == CASES[name].macs(model)
    for levels in _policies(compressor):
        variant, costs = compressor.variant(levels), compressor.costs.costs(levels)
        assert costs["macs"] == CASES[name].macs(variant)
        assert costs["bops"] == costs["macs"] * 32 * 32
        assert costs["params"] == sum(tensor.numel() for tensor in variant.parameters())


@pytest.mark.parametrize("name", CASES)
def test_the_full_variant_is_the_model(name: str) -> None:
    model, compressor = prepared(name)
    inputs = CASES[name].example(1, size=3)
    _agree(compressor.variant(compressor.space.full), model, inputs)


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name, right in CASES.items() for layer in right.reads]
)
def test_a_narrowed_variant_is_the_model_with_nobody_reading_what_is_removed(
    name: str, layer: str
) -> None:
    model, compressor = prepared(name)
    reads, inputs = CASES[name].reads, CASES[name].example(1, size=3)
    index = _dimension(compressor, layer)
    if index is None:
        assert layer not in CASES[name].narrowed
        return
    own = compressor.space.dimensions[index]
    units = own.full
    for level in {own.nearest(w) for w in (units - 1, 0.7 * units, units // 2, 1)}:
        levels = compressor.space.full
        levels[index] = level
        variant = compressor.variant(levels)
        masked = copy.deepcopy(model)
        for producer in reads:
            for channel in _removed(model, variant, producer):
                for reader, positions in reads[producer]:
                    _ignore(masked.get_submodule(reader), list(positions(channel)))
        _agree(variant, masked, inputs)


@pytest.mark.parametrize("name", CASES)
def test_delivered_and_loaded_again(name: str, tmp_path: Path) -> None:
    _, compressor = prepared(name)
    inputs = CASES[name].example(1, size=3)
    for number, levels in enumerate(_policies(compressor)):
        folder = tmp_path / str(number)
        policy = compressor.space.policy_of(levels)
        job = {
            "name": "case",
            "target": {"factory": "cases:target", "options": {"name": name}},
            "budget": {"params": 1.0},
            "evaluation": {"recalibration": "none"},
            "finetuning": {"epochs": 0},
            "export": {"onnx": False},
        }
        compress(parse_job(job), policy, folder)
        _agree(load_compressed(folder), compressor.variant(levels), inputs)


@pytest.mark.parametrize(
    "name", ["counter", "frozen_norm", "old_weight_norm", "new_weight_norm", "tied_weight", "loop"]
)
def test_fine_tuned_and_delivered(name: str, tmp_path: Path) -> None:
    _, compressor = prepared(name)
    job = {
        "name": "case",
        "target": {"factory": "cases:target", "options": {"name": name}},
        "budget": {"params": 1.0},
        "finetuning": {"epochs": 1},
        "export": {"onnx": False},
    }
    levels = _policies(compressor)[0]
    manifest = compress(parse_job(job), compressor.space.policy_of(levels), tmp_path / "best")
    loaded = load_compressed(tmp_path / "best")
    assert manifest.costs["macs"].delivered == CASES[name].macs(loaded)
    assert loaded(CASES[name].example(1)).isfinite().all()


def test_attention_is_counted() -> None:
    # Projections 1 152 + 4 608 + 1 536, scores and mixing 576 each, two linear layers 1 600.
    _, compressor = prepared("attention")
    assert compressor.costs.original["macs"] == 10_048


def test_a_tied_head_is_counted_and_stays() -> None:
    # The MLP 20 480, the head 32 000, and what makes four classes of its words 4 000.
    _, compressor = prepared("tied_head")
    assert compressor.costs.original["macs"] == 20_480 + 32_000 + 4_000
    assert compressor.costs.costs(compressor.space.smallest)["macs"] >= 32_000 + 4_000


def test_a_dead_plane_can_go() -> None:
    model, compressor = prepared("channels_last")
    index = _dimension(compressor, "planes")
    if index is None:
        return
    levels = compressor.space.full
    levels[index] -= 1
    inputs = CASES["channels_last"].example(1, size=3)
    _agree(compressor.variant(levels), model, inputs)


@pytest.mark.parametrize("width", [16, 96, 512])
def test_rotary_is_prepared_in_a_second(width: int) -> None:
    torch.manual_seed(0)
    start = time.process_time()
    Compressor.prepare(Rotary(width).eval(), (CASES["rotary"].example(),), SpaceConfig())
    assert time.process_time() - start < 1.0


def _policies(compressor: Compressor) -> list[Levels]:
    """Return 30 % less of every group, random levels, and the smallest."""
    space = compressor.space
    return [
        space.nearest(0.7 * space.full_amounts),
        np.random.default_rng(0).integers(space.full + 1),
        space.smallest,
    ]


def _dimension(compressor: Compressor, layer: str) -> int | None:
    """Return the dimension that decides how wide a layer is, if there is one."""
    for index, group in enumerate(compressor.parents):
        if layer in (group.name, *group.producers):
            return index
    return None


def _marks(model: nn.Module, layer: str) -> Tensor:
    """Return a number for each output channel that no other channel has."""
    module = model.get_submodule(layer)
    return module.weight[0] if isinstance(module, nn.Embedding) else module.bias


def _outputs(model: nn.Module, layer: str) -> list[int]:
    """Return the lengths of a layer's tensors along its outputs."""
    return [len(tensor) for tensor in model.get_submodule(layer).parameters()]


def _removed(model: nn.Module, variant: nn.Module, layer: str) -> list[int]:
    """Return which output channels of a layer a variant lacks."""
    kept = set(_marks(variant, layer).tolist())
    return [i for i, mark in enumerate(_marks(model, layer).tolist()) if mark not in kept]


def _ignore(layer: nn.Module, positions: Sequence[int]) -> None:
    """Let a layer read zeros at some positions of its input's channels."""
    first = isinstance(layer, nn.Conv1d | nn.Conv2d)

    def silence(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0].clone()
        x[(slice(None), positions) if first else (..., positions)] = 0
        return (x, *inputs[1:])

    layer.register_forward_pre_hook(silence)


def _agree(found: nn.Module, expected: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        found_outputs, outputs = found(inputs), expected(inputs)
    assert found_outputs.shape == outputs.shape
    assert (found_outputs - outputs).abs().max() <= AGREEMENT * outputs.abs().max()
