"""The quantization of a whole variant, in the order that lets each step see the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from rl_compress.quantizers.activations import quantize_activations
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import Quantization, quantize_weights, set_weight
from rl_compress.repair.activations import calibration_pass
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target


def quantize_variant(
    variant: nn.Module,
    target: Target,
    space: SpaceConfig,
    masks: Mapping[str, Tensor],
    bits: LayerBits,
    *,
    calibration_batches: int,
    repair: Callable[[nn.Module], None] = lambda _variant: None,
    weights_made: bool = False,
) -> Quantization:
    """Quantize weights, repair what that did to statistics, then quantize activations.

    Args:
        variant: In evaluation mode; changed in place by assigning new tensors.
        target: Supplies the calibration split.
        space: What is quantized, and how.
        masks: For each sparse weight which elements stay; the others are zero also afterwards.
        bits: Of every layer.
        calibration_batches: Batches that the ranges of activations are fitted to.
        repair: Called between the two.
        weights_made: The variant's weights were put together from quantized ones; nothing is
            returned of them.

    Raises:
        ConfigError: A weight cannot be quantized; the message names it.
    """
    config = space.quantization
    weights = {} if weights_made else quantize_weights(variant, config, bits.weights)
    for name in weights.keys() & masks.keys():
        values = variant.get_parameter(name)
        set_weight(variant, name, values.detach() * masks[name].to(values.device))
    repair(variant)
    if not bits.activations:
        return Quantization(weights)
    run = calibration_pass(target, variant, calibration_batches)
    return Quantization(weights, quantize_activations(variant, run, config, bits.activations))
