"""Quantizing the weights and the activations of whole networks."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import zoo
from torch import nn

from rl_compress.quantizers.activations import (
    ActivationQuantizer,
    attach_activations,
    quantize_activations,
)
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import quantize_weights
from rl_compress.quantizers.quantized_tensor import QuantizedTensor
from rl_compress.space.space_config import QuantizationConfig


def _quantize_weights(model: nn.Module, config: QuantizationConfig) -> dict[str, QuantizedTensor]:
    return quantize_weights(model, config, LayerBits.same(model, config).weights)


def _quantize_activations(
    model: nn.Module, inputs: torch.Tensor, config: QuantizationConfig
) -> dict[str, ActivationQuantizer]:
    return quantize_activations(
        model, lambda m: m(inputs), config, LayerBits.same(model, config).activations
    )


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_convolution_and_linear_layer_is_quantized_and_nothing_is_written_into(
    name: str,
) -> None:
    model = zoo.make(name)
    shared = {key: (tensor, tensor.clone()) for key, tensor in model.state_dict().items()}
    found = _quantize_weights(model, QuantizationConfig(weight_bits=3))
    layers = [
        key for key, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    assert {f"{key}.weight" for key in layers} <= set(found)
    for key, quantized in found.items():
        assert torch.equal(model.get_parameter(key), quantized.dequantize())
    assert all(torch.equal(tensor, copy) for tensor, copy in shared.values())
    assert model(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_16_bits_mean_no_quantization() -> None:
    model = zoo.make("plain")
    before = copy.deepcopy(model.state_dict())
    assert _quantize_weights(model, QuantizationConfig()) == {}
    assert _quantize_activations(model, torch.randn(4, 1, 8, 8), QuantizationConfig()) == {}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_skipped_layers_stay_as_they_are() -> None:
    model = zoo.make("plain")
    config = QuantizationConfig(weight_bits=2, activation_bits=2)
    found = quantize_weights(
        model, config, LayerBits.same(model, config, lambda layer: layer == "conv1").weights
    )
    assert "conv1.weight" not in found
    inputs = torch.randn(4, 1, 8, 8)
    ranges = quantize_activations(
        model,
        lambda m: m(inputs),
        config,
        LayerBits.same(model, config, lambda layer: layer != "fc2").activations,
    )
    assert list(ranges) == ["fc2"]


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    _quantize_weights(model, QuantizationConfig(weight_bits=2))
    assert model[2].weight is model[0].weight
    assert len(model[0].weight.unique()) <= 4 * 4


@pytest.mark.parametrize("name", ["uniform", "symmetric", "piecewise", "polynomial", "kmeans"])
def test_inputs_of_layers_take_few_values_and_survive_copies_and_descriptions(name: str) -> None:
    model = zoo.make("plain")
    inputs = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = model(inputs)
    config = QuantizationConfig(activation_bits=2, activation_quantizer=name)  # type: ignore[arg-type]
    found = _quantize_activations(model, inputs, config)
    assert set(found) == {"conv1", "conv2", "fc1", "fc2"}
    seen: dict[str, int] = {}

    def count(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen[names[layer]] = len(arguments[0].unique())

    names = {layer: key for key, layer in model.named_modules()}
    handles = [model.get_submodule(key).register_forward_pre_hook(count) for key in found]
    outputs = model(inputs)
    for handle in handles:
        handle.remove()
    assert max(seen.values()) <= 4
    assert not torch.allclose(outputs, exact, atol=1e-3)
    assert torch.equal(copy.deepcopy(model)(inputs), outputs)
    plain = {key: json.loads(json.dumps(q.describe())) for key, q in found.items()}
    rebuilt = zoo.make("plain")
    attach_activations(
        rebuilt, {key: ActivationQuantizer.from_description(d) for key, d in plain.items()}
    )
    assert torch.equal(rebuilt(inputs), outputs)
