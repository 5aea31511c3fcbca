"""BatchNorm recalibration: statistics of the narrowed network's own activations.

A pruned layer passes on other means and variances than those that the uncompressed network
recorded. Estimating them again on a calibration batch is the cheapest repair there is, and makes
the score of a variant tell something about its score after fine-tuning (Li et al., "EagleEye",
ECCV 2020).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rl_compress.targets.target import Target, device_of


def has_batchnorm(model: nn.Module) -> bool:
    """Say whether a model has BatchNorm layers with running statistics."""
    return bool(_tracking(model))


def recalibrate_batchnorm(model: nn.Module, target: Target, *, max_batches: int) -> int:
    """Estimate all running statistics again, in one pass over the calibration split.

    Means and variances are averaged over the batches. Running buffers are replaced, never written
    into, because a variant shares its tensors with others.

    Args:
        model: Changed in place by assigning new buffers; left in evaluation mode.
        target: Supplies the calibration split.
        max_batches: Batches to read at most.

    Returns:
        The number of layers recalibrated.
    """
    layers = _tracking(model)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.running_mean = torch.zeros_like(layer.running_mean)
        layer.running_var = torch.ones_like(layer.running_var)
        layer.num_batches_tracked = torch.zeros_like(layer.num_batches_tracked)
        layer.momentum = None  # torch then keeps the plain average over batches
        layer.train()
    device = device_of(model)
    try:
        with torch.no_grad():
            for number, (inputs, _) in enumerate(target.batches("calibration")):
                if number == max_batches:
                    break
                model(inputs.to(device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    return len(layers)


def _tracking(model: nn.Module) -> list[_BatchNorm]:
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
