"""What importances look at: weights, and what calibration data says of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.importance.contribution import ContributionResult
from rl_compress.model.axes import named_tensors, quantizable_weights
from rl_compress.model.layers import along_inputs, channel_axis, is_weighted
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target, device_of

_BATCHES = 4
"""Calibration batches that gradients and activations are taken from."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a network's weights; what takes computation is computed when asked for."""

    model: nn.Module
    """In evaluation mode; to be left as it is."""
    target: Target | None = None
    """Supplies calibration data."""
    contribution: ContributionResult | None = None
    """What contribution pruning found, for importances that need it."""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return named_tensors(self.model)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights of convolutions and linear layers by name, float64 on the CPU."""
        names = quantizable_weights(self.model)
        return {name: self.model.get_parameter(name).detach().double().cpu() for name in names}

    @cached_property
    def input_norms(self) -> dict[str, Tensor]:
        """Norms of what weights are multiplied by; see :func:`input_norms`."""
        return input_norms(self.model, self._data, _BATCHES)

    @cached_property
    def gradients(self) -> list[dict[str, Tensor]]:
        """Gradients by weight for some calibration batches; see :func:`weight_gradients`."""
        return weight_gradients(self.model, self._data, self.weights, _BATCHES)

    @property
    def _data(self) -> Target:
        assert self.target is not None, "an importance that needs data must say so"
        return self.target


def weight_gradients(
    model: nn.Module, target: Target, names: Iterable[str], max_batches: int
) -> list[dict[str, Tensor]]:
    """Return the gradient of the loss by each weight, for every calibration batch.

    Args:
        model: In evaluation mode; left as it is.
        target: Supplies the calibration split and the loss; without a loss on labels the
            distillation loss against slightly softened outputs of the model itself.
        names: Weights.
        max_batches: Batches to use.
    """
    names = list(names)
    copied = copy.deepcopy(model).requires_grad_(False)
    weights = [copied.get_parameter(name).requires_grad_(True) for name in names]
    device = device_of(copied)
    found = []
    for batch in islice(target.batches("calibration"), max_batches):
        batch = moved(batch, device)
        outputs = target.forward(copied, batch)
        loss = target.loss(outputs, target.labels(batch))
        if loss is None:
            # At its own outputs the distillation loss is flat.
            loss = target.distillation_loss(outputs, 0.5 * outputs.detach(), 1.0)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        found.append(
            {
                name: (torch.zeros_like(w) if g is None else g).double().cpu()
                for name, w, g in zip(names, weights, gradients, strict=True)
            }
        )
    return found


def input_norms(model: nn.Module, target: Target, max_batches: int) -> dict[str, Tensor]:
    """Return the norm ``||x||_2`` of what each weight is multiplied by, over calibration data.

    Args:
        model: In evaluation mode; left as it is.
        target: Supplies the calibration split.
        max_batches: Batches to use.

    Returns:
        By name of the weight, in a shape that broadcasts to the weight's.
    """
    squares: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        values = arguments[0].detach().double()
        summed = values.square().movedim(channel_axis(layer), 0).flatten(1).sum(dim=1).cpu()
        squares[layer] = squares.get(layer, torch.zeros(1)) + summed

    layers = {name: layer for name, layer in model.named_modules() if is_weighted(layer)}
    handles = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        with torch.no_grad():
            for batch in islice(target.batches("calibration"), max_batches):
                target.forward(model, moved(batch, device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    return {
        f"{name}.weight" if name else "weight": along_inputs(layer, squares[layer].sqrt())
        for name, layer in layers.items()
        if layer in squares
    }
