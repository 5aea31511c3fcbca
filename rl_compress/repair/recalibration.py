"""BatchNorm recalibration: statistics of the narrowed network's own activations.

A pruned layer passes on other means and variances than those that the uncompressed network
recorded. Estimating them again on calibration data is the cheapest repair there is, and makes the
score of a variant tell something about its score after fine-tuning (Li et al., "EagleEye",
ECCV 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.model.layers import is_batchnorm
from rl_compress.model.nested import num_samples
from rl_compress.repair.activations import hooked
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target, device_of


def has_batchnorm(model: nn.Module) -> bool:
    """Say whether a model has BatchNorm layers with running statistics."""
    return bool(_tracking(model))


def recalibrate_batchnorm(model: nn.Module, target: Target, *, max_batches: int) -> int:
    """Estimate all running statistics again, in one pass over the calibration split.

    Batches are merged exactly: with n samples and positions so far, m in the batch, and d the
    difference of their means (Chan, Golub, LeVeque, 1979)::

        mean <- mean + d m / (n + m)
        M2   <- M2 + M2_batch + d^2 n m / (n + m)          variance = M2 / (n + m - 1)

    so a layer whose inputs do not pass another BatchNorm gets the mean and the unbiased variance of
    all of them. Later layers see inputs that were normalised batch by batch, as in training.

    Running buffers are replaced, never written into, because a variant shares its tensors with
    others. Layers that the forward pass does not reach keep their statistics.

    Args:
        model: Changed in place by assigning new buffers; its BatchNorm layers are left in
            evaluation mode.
        target: Supplies the calibration split.
        max_batches: Batches to read at most.

    Returns:
        The number of layers recalibrated.
    """
    layers = _tracking(model)
    momenta = [layer.momentum for layer in layers]
    counters = [layer.num_batches_tracked for layer in layers]
    merged: dict[nn.Module, _Moments] = {layer: _Moments(layer) for layer in layers}

    def merge(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        merged[layer].add(output.numel() // output.shape[1])

    for layer in layers:
        # With momentum 1 torch leaves each batch's own moments in these buffers.
        layer.running_mean = torch.zeros_like(layer.running_mean)
        layer.running_var = torch.ones_like(layer.running_var)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
        layer.momentum = 1.0
        layer.train()
    device = device_of(model)
    try:
        with hooked([layer.register_forward_hook(merge) for layer in layers]):
            first_size = None
            for number, batch in enumerate(target.batches("calibration")):
                first_size = first_size or num_samples(batch)
                # A lone sample left over at the end has no variance of its own.
                if number == max_batches or num_samples(batch) == 1 < first_size:
                    break
                target.forward(model, moved(batch, device))
    finally:
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = counter
            layer.running_mean, layer.running_var = merged[layer].mean, merged[layer].variance
            layer.eval()
    return sum(moments.count > 0 for moments in merged.values())


class _Moments:
    """Mean and variance of all that one layer has seen, beginning with what it had recorded."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.count = 0
        self.mean: Tensor = layer.running_mean
        self.variance: Tensor = layer.running_var

    def add(self, count: int) -> None:
        """Merge the moments of ``count`` values per channel that are in the layer's buffers."""
        mean, variance = self._layer.running_mean, self._layer.running_var
        if self.count == 0:
            self.mean, self.variance = mean.clone(), variance.clone()
        else:
            total = self.count + count
            shift = mean - self.mean
            squares = (
                (self.count - 1) * self.variance
                + (count - 1) * variance
                + shift**2 * (self.count * count / total)
            )
            self.mean, self.variance = self.mean + shift * (count / total), squares / (total - 1)
        self.count += count


def _tracking(model: nn.Module) -> list[Any]:
    # Any, because torch declares buffers that every one of these layers has as optional.
    return [
        layer for layer in model.modules() if is_batchnorm(layer) and layer.running_mean is not None
    ]
