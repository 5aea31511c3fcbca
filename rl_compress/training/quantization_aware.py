"""Quantization-aware fine-tuning with learned step sizes (LSQ)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.quantizers.activations import (
    ActivationQuantizer,
    attach_activations,
    quantize_activations,
)
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.blocks import Blocking
from rl_compress.quantizers.model import Quantization, quantize_weights, set_weight
from rl_compress.quantizers.quantized_tensor import QuantizedTensor
from rl_compress.quantizers.ranges import make_clip
from rl_compress.quantizers.symmetric import Symmetric
from rl_compress.quantizers.uniform import Uniform
from rl_compress.repair.activations import calibration_pass, repairable_layers
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.target import Target, device_of
from rl_compress.training.loop import Course
from rl_compress.training.recovery import FinetuningConfig, finetune

_TRAINABLE = ("symmetric", "uniform")
"""Quantizers of weights that are trained through, on the symmetric grid."""

_LEARNING_RATE_SHARE = 0.3
"""Step size of this training relative to the one before it, which it follows."""

_RANGE_BATCHES = 4
"""Calibration batches that ranges of activations start from."""


class LearnedStep(nn.Module):
    """Rounds a weight to a symmetric grid whose steps are trained with it.

    ``w -> s round(clip(w / s, -Q, Q))``, one step s for each block. Rounding passes gradients
    straight through, so the step's gradient is ``round(w / s) - w / s`` within the grid and plus or
    minus Q beyond it, scaled by ``1 / sqrt(n Q)`` for a block of n weights (Esser et al., "Learned
    step size quantization", ICLR 2020, equations 1 to 5 and section 2.2). One bit is ``s sign(w)``.
    """

    def __init__(self, weight: Tensor, quantizer: Symmetric, blocking: Blocking) -> None:
        """Start from the steps that the quantizer fits to a weight."""
        super().__init__()
        self.quantizer = quantizer
        self.blocking = blocking
        blocks = blocking.split(weight.detach().float())
        steps = quantizer.fit(blocks)["scale"]
        # A block of zeros needs a step too, however small.
        self.step = nn.Parameter(steps.clamp_min(1e-8))
        self.gradient_scale = 1.0 / math.sqrt(blocks.shape[1] * quantizer.largest)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on its grid."""
        blocks = self.blocking.split(weight)
        step = _scale_gradient(self.positive_step(), self.gradient_scale)
        largest = self.quantizer.largest
        relative = (blocks / step).clamp(-largest, largest)
        rounded = _straight_through(relative, self._codes(relative))
        return self.blocking.join(rounded * step, weight.shape)

    def positive_step(self) -> Tensor:
        """Return the steps, which training could turn negative."""
        return self.step.abs().clamp_min(1e-8)

    def quantized(self, weight: Tensor) -> QuantizedTensor:
        """Return what to store of the weight."""
        parameters = {"scale": self.positive_step().detach().clone()}
        blocks = self.blocking.split(weight.detach().float())
        codes = self.quantizer.encode(blocks, parameters)
        return QuantizedTensor(
            self.blocking.join(codes, weight.shape).contiguous(),
            parameters,
            self.quantizer,
            self.blocking,
        )

    def _codes(self, relative: Tensor) -> Tensor:
        if self.quantizer.bits == 1:
            return torch.where(relative > 0, 1.0, -1.0)
        return relative.round()


class LearnedRange(nn.Module):
    """Rounds a layer's input to an affine grid whose two parameters are trained.

    As :class:`LearnedStep`, with an offset (Bhalgat et al., "LSQ+", CVPR Workshops 2020, equation
    2); zero stays the lowest level of inputs that are never negative.
    """

    def __init__(self, fitted: ActivationQuantizer) -> None:
        """Start from a uniform quantizer that was fitted to calibration data."""
        super().__init__()
        self.bits = fitted.quantizer.bits
        self.scale = nn.Parameter(fitted.parameters["scale"].clamp_min(1e-8).reshape(()))
        minimum = fitted.parameters["minimum"].reshape(())
        self.minimum = nn.Parameter(minimum, requires_grad=bool(minimum < 0))

    def __call__(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Serve as a layer's forward pre-hook."""
        values = inputs[0]
        largest = (1 << self.bits) - 1
        gradient_scale = 1.0 / math.sqrt(values[0].numel() * largest)
        scale = _scale_gradient(self.scale.abs().clamp_min(1e-8), gradient_scale)
        minimum = _scale_gradient(self.minimum, gradient_scale)
        relative = ((values - minimum) / scale).clamp(0, largest)
        rounded = _straight_through(relative, relative.round())
        return (rounded * scale + minimum, *inputs[1:])

    def quantizer(self) -> ActivationQuantizer:
        """Return what to store."""
        parameters = {
            "minimum": self.minimum.detach().reshape(1, 1).cpu().clone(),
            "scale": self.scale.detach().abs().clamp_min(1e-8).reshape(1, 1).cpu().clone(),
        }
        return ActivationQuantizer(
            Uniform(self.bits, make_clip("minmax", self.bits, 100.0)), parameters
        )


def trains_through(quantization: QuantizationConfig, finetuning: FinetuningConfig) -> bool:
    """Say whether a network is to be trained through its quantizers, and can be."""
    wanted = finetuning.quantization_aware and finetuning.epochs > 0
    return wanted and quantization.quantizer in _TRAINABLE


def quantization_aware_finetune(
    model: nn.Module,
    teacher: nn.Module,
    target: Target,
    quantization: QuantizationConfig,
    finetuning: FinetuningConfig,
    bits: LayerBits,
    *,
    masks: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] = lambda _epoch, _epochs: None,
) -> tuple[Quantization, Course]:
    """Train a network through its quantizers, in place, with the uncompressed one as its teacher.

    Args:
        model: Already fine-tuned, owning its tensors; left with weights on their grids and with
            hooks that round activations.
        teacher: The uncompressed network, on the same device.
        target: Supplies data, losses and score.
        quantization: Granularity and the range to start from. Weights get symmetric grids
            and activations affine ones, whatever its quantizers are called.
        finetuning: As for recovery, at a smaller learning rate.
        bits: Of every layer.
        masks: For each sparse weight, by its full name, which elements stay.
        progress: Called after each epoch with the epochs done and their number.

    Returns:
        What was quantized, and how training went. Weights that several layers share are quantized
        without training.
    """
    masks = masks or {}
    steps = _learn_steps(model, quantization, bits.weights)
    uniform = quantization.model_copy(update={"activation_quantizer": "uniform"})
    run = calibration_pass(target, model, _RANGE_BATCHES)
    ranges = _learn_ranges(model, run, uniform, bits.activations)
    share = {"learning_rate": finetuning.learning_rate * _LEARNING_RATE_SHARE}
    renamed = {_original(name) if name in steps else name: mask for name, mask in masks.items()}
    result = finetune(
        model,
        teacher,
        target,
        finetuning.model_copy(update=share),
        masks=renamed,
        progress=progress,
    )
    weights = {}
    for name, step in steps.items():
        layer: Any = model.get_submodule(name.rpartition(".")[0])
        weights[name] = step.quantized(layer.parametrizations.weight.original)
        parametrize.remove_parametrizations(layer, "weight")
        values = weights[name].dequantize()
        set_weight(model, name, values * masks[name].to(values) if name in masks else values)
    learned = {layer_of(name) for name in steps}
    others = {layer: number for layer, number in bits.weights.items() if layer not in learned}
    rest = quantize_weights(model, quantization, others)
    activations = {}
    for name, (range_, handle) in ranges.items():
        handle.remove()
        delattr(model.get_submodule(name), _RANGE)
        activations[name] = range_.quantizer()
    attach_activations(model, activations)
    model.requires_grad_(False)
    return Quantization({**weights, **rest}, activations), result


_RANGE = "learned_range"
"""Name of the submodule that holds a layer's learned range while it is trained."""


def _learn_steps(
    model: nn.Module, config: QuantizationConfig, bits: Mapping[str, int]
) -> dict[str, LearnedStep]:
    own = repairable_layers(model)
    steps = {}
    for name, axis in quantizable_weights(model).items():
        layer_name = layer_of(name)
        if layer_name not in own or layer_name not in bits:
            continue
        clip = make_clip(config.range, bits[layer_name], config.percentile)
        quantizer = Symmetric(bits[layer_name], clip)
        layer = own[layer_name]
        weight = model.get_parameter(name)
        blocking = Blocking.of(config, weight.shape, axis, name)
        steps[name] = LearnedStep(weight, quantizer, blocking).to(weight.device)
        parametrize.register_parametrization(layer, "weight", steps[name])
    return steps


def _learn_ranges(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    config: QuantizationConfig,
    bits: Mapping[str, int],
) -> dict[str, tuple[LearnedRange, Any]]:
    hooks_before = {name: set(layer._forward_pre_hooks) for name, layer in model.named_modules()}
    fitted = quantize_activations(model, run, config, bits)
    ranges = {}
    for name, quantizer in fitted.items():
        layer = model.get_submodule(name)
        # The fixed rounding makes way for the one that learns.
        for key in set(layer._forward_pre_hooks) - hooks_before[name]:
            del layer._forward_pre_hooks[key]
        learned = LearnedRange(quantizer).to(device_of(model))
        layer.add_module(_RANGE, learned)
        ranges[name] = (learned, layer.register_forward_pre_hook(learned))
    return ranges


def _original(name: str) -> str:
    layer, _, attribute = name.rpartition(".")
    return f"{layer}.parametrizations.{attribute}.original".removeprefix(".")


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    return values + (rounded - values).detach()


def _scale_gradient(values: Tensor, scale: float) -> Tensor:
    return values * scale + (values - values * scale).detach()
