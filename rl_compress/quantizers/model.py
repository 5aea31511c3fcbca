"""Quantizing the weights of a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.quantizers.activations import ActivationQuantizer
from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.space.space_config import QuantizationConfig


@dataclass(frozen=True, slots=True)
class Quantization:
    """What was quantized in a network."""

    weights: dict[str, QuantizedTensor] = field(default_factory=dict)
    """By the weight's full name."""
    activations: dict[str, ActivationQuantizer] = field(default_factory=dict)
    """By layer name."""


def quantize_weights(
    model: nn.Module, config: QuantizationConfig, bits: Mapping[str, int]
) -> dict[str, QuantizedTensor]:
    """Replace the weights of convolutions and linear layers by what quantization leaves of them.

    Args:
        model: Changed in place, by assigning new parameters; weights that were zero by a mask are
            no longer, unless zero is a level.
        config: How; its own bits do not count.
        bits: By layer name; other layers are left as they are.

    Returns:
        What to store of each weight, by its full name.

    Raises:
        ConfigError: A weight cannot be quantized; the message names it.
    """
    quantized = {}
    for name, axis in quantizable_weights(model).items():
        if (layer := layer_of(name)) not in bits:
            continue
        weight = model.get_parameter(name)
        one = config.model_copy(update={"weight_bits": bits[layer]})
        quantized[name] = quantize_tensor(weight, one, output_axis=axis, name=name)
        set_weight(model, name, quantized[name].dequantize().to(weight.dtype))
    return quantized


def set_weight(model: nn.Module, name: str, values: Tensor) -> None:
    """Give a model new values under a parameter's name, and under all names that it is tied to."""
    old = model.get_parameter(name)
    new = nn.Parameter(values.to(old.device), requires_grad=old.requires_grad)
    for alias, parameter in list(model.named_parameters(remove_duplicate=False)):
        if parameter is old:
            layer, _, attribute = alias.rpartition(".")
            setattr(model.get_submodule(layer), attribute, new)
