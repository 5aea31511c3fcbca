"""Progressive bit search: the few stored bits whose flips hurt a model most.

The attack of Rakin, He and Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit
Search", ICCV 2019, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_compress.evaluation.straight_through import straight_through
from rl_compress.robustness.bit_flips import StoredWeights
from rl_compress.robustness.replica import Replica

CANDIDATES = 5
"""Bits, or channels, of a layer that are tried by the real loss after the gradient ranked them."""

Loss = Callable[[nn.Module], Tensor]
"""A model's loss on the attack batch, to be differentiated."""


@dataclass(frozen=True, slots=True)
class BitFlip:
    """A bit that the search flipped."""

    tensor: str
    """Name of the weight tensor."""
    flat_index: int
    """Of the weight, in the flattened tensor."""
    bit: int
    """0 is the lowest."""
    before: float
    """The weight's value before."""
    after: float
    """The weight's value after; may be infinite or NaN in float32."""
    loss: float
    """On the attack batch with this flip and those before it; infinite where it is not a number."""


def search_bits(
    replica: Replica, stored: Mapping[str, StoredWeights], loss: Loss, flips: int
) -> Iterator[BitFlip]:
    """Flip, one after the other, the bits that raise the loss most.

    In every step, each tensor's bits are ranked by the first-order change of the loss,
    ``dL/dw * (w_flipped - w)``; the best few are tried one by one, and of all tensors the flip with
    the largest real loss is kept. No bit is flipped twice. The search ends early when the loss is
    no longer finite, or when none of the flips that were tried raises it: a float model is often
    broken by its first, and then has no gradient left to guide a second.

    Args:
        replica: Holds the values of ``stored``. After each step it holds the flip as well; when
            the iterator ends, the original values again.
        stored: The tensors among whose bits to search; left as they are.
        loss: Differentiable loss on a fixed batch.
        flips: Bits to flip at most.

    Yields:
        Each flip, when it is made.
    """
    current = dict(stored)
    taken: dict[str, set[tuple[int, int]]] = {name: set() for name in stored}
    try:
        for _ in range(flips):
            value, gradients = loss_and_gradients(replica, current, loss)
            if not math.isfinite(value):
                return
            tried = [
                _try(replica, name, current[name], index, bit, loss)
                for name, gradient in gradients.items()
                for index, bit in rank_flips(current[name], gradient, CANDIDATES, taken[name])
            ]
            best = max(tried, key=lambda flip: flip.loss, default=None)
            if best is None or best.loss <= value:
                return
            current[best.tensor] = current[best.tensor].flipped(best.flat_index, best.bit)
            taken[best.tensor].add((best.flat_index, best.bit))
            replica.put(best.tensor, current[best.tensor].values())
            yield best
    finally:
        replica.put_all(stored)


def loss_and_gradients(
    replica: Replica, stored: Mapping[str, StoredWeights], loss: Loss
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss, and its gradient by each tensor that it depends on."""
    with torch.enable_grad(), straight_through(replica.model):
        parameters = {
            name: replica.put(name, weights.values(), requires_grad=True)
            for name, weights in stored.items()
        }
        value = loss(replica.model)
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    replica.put_all(stored)
    gradients = {
        name: gradient
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is not None
    }
    return float(value.detach()), gradients


def real_loss(model: nn.Module, loss: Loss) -> float:
    """Return the loss without gradients; infinite where it is not a number."""
    with torch.no_grad():
        value = float(loss(model))
    return math.inf if math.isnan(value) else value


def rank_flips(
    stored: StoredWeights,
    gradient: Tensor,
    count: int,
    taken: set[tuple[int, int]],
) -> list[tuple[int, int]]:
    """Return the flips that raise the loss most, to first order, the best first.

    Args:
        stored: One tensor.
        gradient: Of the loss by its values, in their shape.
        count: How many to return at most; those that would not raise the loss are left out.
        taken: Flips to leave out.

    Returns:
        Pairs of a flat index and a bit.
    """
    values = stored.values().double()
    # A broken model's gradient is not a number where it says nothing.
    slope = gradient.to(values).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
    ranked: list[tuple[float, int, int]] = []
    for bit in range(stored.bits):
        change = stored.values_after_flip(bit).double() - values
        # A weight that is no longer a number leaves no loss either, whatever the slope.
        gain = (slope * change).flatten().nan_to_num(nan=math.inf, posinf=math.inf)
        used = [index for index, flipped in taken if flipped == bit]
        gain[used] = -math.inf
        best = gain.topk(min(count, gain.numel()))
        ranked += [
            (value, index, bit)
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if value > 0
        ]
    ranked.sort(key=lambda entry: -entry[0])
    return [(index, bit) for _, index, bit in ranked[:count]]


def _try(
    replica: Replica, name: str, stored: StoredWeights, index: int, bit: int, loss: Loss
) -> BitFlip:
    before = stored.values()
    after = stored.flipped(index, bit).values()
    replica.put(name, after)
    value = real_loss(replica.model, loss)
    replica.put(name, before)
    old, new = float(before.flatten()[index]), float(after.flatten()[index])
    return BitFlip(name, index, bit, old, new, value)
