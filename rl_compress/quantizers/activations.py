"""Quantizing the inputs of layers: ranges come from calibration data, rounding from hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.quantizers.factory import make_quantizer, remake_quantizer
from rl_compress.quantizers.quantizer import Parameters, Quantizer
from rl_compress.space.space_config import QuantizationConfig

_SAMPLE = 1 << 16
"""Values of each layer's inputs that a range is fitted to; evenly spread over all."""


class ActivationQuantizer:
    """Rounds the first input of a layer, the whole tensor with one set of parameters."""

    def __init__(self, quantizer: Quantizer, parameters: Parameters) -> None:
        """Keep a fitted quantizer.

        Args:
            quantizer: Of any kind.
            parameters: Of one block.
        """
        self.quantizer = quantizer
        self.parameters = parameters

    def __call__(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Serve as a layer's forward pre-hook."""
        values = inputs[0]
        parameters = {name: p.to(values.device) for name, p in self.parameters.items()}
        rounded = self.quantizer.fake_quantize(values.reshape(1, -1), parameters)
        return (rounded.reshape(values.shape).to(values.dtype), *inputs[1:])

    def describe(self) -> dict[str, Any]:
        """Return the quantizer and its parameters as plain data; floats survive JSON exactly."""
        return {
            **self.quantizer.identity,
            "parameters": {
                name: {"dtype": str(p.dtype).removeprefix("torch."), "values": p.tolist()}
                for name, p in self.parameters.items()
            },
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ActivationQuantizer:
        """Rebuild from :meth:`describe`."""
        parameters = {
            name: torch.tensor(entry["values"], dtype=getattr(torch, entry["dtype"]))
            for name, entry in description["parameters"].items()
        }
        return cls(remake_quantizer(description), parameters)


def quantize_activations(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    config: QuantizationConfig,
    bits: Mapping[str, int],
) -> dict[str, ActivationQuantizer]:
    """Round the inputs of convolutions and linear layers from now on.

    Each layer's range is fitted to what the layers before it, themselves quantized, make of the
    calibration data.

    Args:
        model: In evaluation mode; gets forward pre-hooks, which copies of it keep.
        run: Runs it on calibration data.
        config: How; its own bits do not count.
        bits: By layer name; other layers are left as they are.

    Returns:
        The quantizers by layer name; layers that are not called have none.
    """
    if not bits:
        return {}
    names: dict[nn.Module, str] = {
        layer: name for name, layer in model.named_modules() if name in bits
    }
    found: dict[str, ActivationQuantizer] = {}

    def fit(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        name = names[layer]
        if name not in found:
            quantizer = make_quantizer(
                config.activation_quantizer, bits[name], config, config.activation_quantizer_options
            )
            found[name] = ActivationQuantizer(quantizer, quantizer.fit(_sample(arguments[0])))
        return found[name](layer, arguments)

    handles = [layer.register_forward_pre_hook(fit) for layer in names]
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    attach_activations(model, found)
    return found


def attach_activations(model: nn.Module, quantizers: Mapping[str, ActivationQuantizer]) -> None:
    """Make layers round their inputs.

    Args:
        model: Gets a forward pre-hook for each quantizer.
        quantizers: By layer name.
    """
    for name, quantizer in quantizers.items():
        model.get_submodule(name).register_forward_pre_hook(quantizer)


def _sample(values: Tensor) -> Tensor:
    flat = values.detach().float().reshape(1, -1)
    return flat[:, :: max(1, flat.shape[1] // _SAMPLE)].contiguous().cpu()
