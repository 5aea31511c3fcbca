"""Rounding by arithmetic gives what searching a table of levels gives, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from rl_compress.quantizers import cumulative_shift, symmetric, uniform
from rl_compress.quantizers.even_grid import EvenGrid, least_even
from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.quantizers.quantizer import Quantizer, nearest, squared_error
from rl_compress.quantizers.ranges import best_of
from rl_compress.quantizers.symmetric import Symmetric
from rl_compress.quantizers.uniform import Uniform
from rl_compress.space.space_config import QuantizationConfig


def _blocks(kind: str, magnitude: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(7, 600, generator=generator) * magnitude
    if kind == "positive":
        return blocks.relu()
    if kind == "zeros":
        blocks[::2] = 0
    return (blocks / magnitude).round() / 4 * magnitude if kind == "ties" else blocks


def _difficult(blocks: Tensor, levels: Tensor) -> list[Tensor]:
    """Return the blocks, and the same with levels, middles and their neighbours in front."""
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    edges = [levels, middles, *(middles.nextafter(middles.new_tensor(s)) for s in (-9e9, 9e9))]
    return [blocks, *(torch.cat([edge, blocks], dim=1) for edge in edges)]


@pytest.mark.parametrize("magnitude", [1e-38, 1.0, 1e15])
@pytest.mark.parametrize("kind", ["any", "positive", "zeros", "ties"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_errors_and_codes_are_those_of_the_table(bits: int, kind: str, magnitude: float) -> None:
    blocks = _blocks(kind, magnitude)
    reach = blocks.abs().amax(dim=1, keepdim=True) * torch.linspace(0, 1, 7)[:, None]
    largest, top = (1 << (bits - 1)) - 1, (1 << bits) - 1
    low = torch.maximum(blocks.amin(dim=1, keepdim=True).clamp(max=0), -reach)
    scale, step = reach / largest, (reach - low) / top
    cases = [
        (Symmetric(bits, _unclipped), {"scale": scale}, EvenGrid(scale, -largest, largest)),
        (Uniform(bits, _unclipped), {"minimum": low, "scale": step}, EvenGrid(step, 0, top, low)),
    ]
    for quantizer, parameters, grid in cases:
        levels = quantizer.levels(parameters)
        for values in _difficult(blocks, levels):
            assert torch.equal(grid.squared_error(values), squared_error(values, levels))
            assert torch.equal(quantizer.encode(values, parameters), nearest(values, levels))


@pytest.mark.parametrize("shape", [(3, 40_000), (2, 3), (900, 64), (1, 70_000)])
def test_large_blocks_are_rounded_in_parts(shape: tuple[int, int]) -> None:
    quantizer = Symmetric(4, _unclipped)
    blocks = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scale = blocks.abs().amax(dim=1, keepdim=True) / 9
    levels = quantizer.levels({"scale": scale})
    assert torch.equal(EvenGrid(scale, -7, 7).squared_error(blocks), squared_error(blocks, levels))
    assert torch.equal(quantizer.encode(blocks, {"scale": scale}), nearest(blocks, levels))


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("name", ["symmetric", "uniform", "cumulative_shift"])
def test_weights_are_quantized_as_by_tables(
    name: str, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(12, 8, 3, 3, generator=torch.Generator().manual_seed(3))
    quick = [_quantized(weight, name, bits, granularity) for bits in range(1, 9)]
    for module in (symmetric, uniform, cumulative_shift):
        monkeypatch.setattr(module, "least_even", _least_by_table)
    for kind in (Symmetric, Uniform):
        monkeypatch.setattr(kind, "encode", Quantizer.encode)
    for found in quick:
        by_table = _quantized(weight, name, found.bits, granularity)
        assert torch.equal(found.codes, by_table.codes)
        assert torch.equal(found.dequantize(), by_table.dequantize())
        assert found.parameters.keys() == by_table.parameters.keys()
        for key, parameter in found.parameters.items():
            assert torch.equal(parameter, by_table.parameters[key])


@pytest.mark.parametrize("magnitude", [1e-38, 1e-20, 1.0, 1e19])
@pytest.mark.parametrize("elements", [1, 9, 2000])
def test_the_least_error_is_found_as_by_tables(elements: int, magnitude: float) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(40, elements, generator=generator) * magnitude
    blocks[::7] = 0
    blocks[::5] = (blocks[::5] * 2).round() / 2
    extreme = blocks.abs().amax(dim=1, keepdim=True)
    # Close to each other, and some of them equal.
    candidates = [extreme * share for share in (1.0, 0.8, 0.8, 0.79999, 0.81, 0.5, 0.3)]
    for bits in (2, 4, 8):
        largest = (1 << (bits - 1)) - 1

        def grid(reach: Tensor, largest: int = largest) -> EvenGrid:
            return EvenGrid(reach / largest, -largest, largest)

        found = least_even(blocks, candidates, grid)
        assert torch.equal(found, _least_by_table(blocks, candidates, grid))


def _least_by_table(
    blocks: Tensor, candidates: Sequence[Tensor], grid_at: Callable[[Tensor], EvenGrid]
) -> Tensor:
    def error(candidate: Tensor) -> Tensor:
        grid = grid_at(candidate)
        levels = grid.scale * torch.arange(grid.lowest, grid.highest + 1)
        return squared_error(blocks, levels if grid.minimum is None else grid.minimum + levels)

    return best_of(candidates, error)


def _quantized(weight: Tensor, name: str, bits: int, granularity: str) -> QuantizedTensor:
    config = {"quantizer": name, "weight_bits": bits, "granularity": granularity, "group_size": 24}
    return quantize_tensor(weight, QuantizationConfig.model_validate(config))


def _unclipped(_blocks: Tensor, _error: object) -> Tensor:
    raise AssertionError("nothing is fitted here")
