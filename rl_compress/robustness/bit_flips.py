"""Bits of stored weights: what a model's weights look like in memory, and what a flipped bit does.

A float32 weight is its IEEE-754 pattern: bit 31 is the sign, bits 30 to 23 the exponent, bits 22 to
0 the fraction. An integer weight is in two's complement with b bits, of which bit b - 1 counts
``-2^(b-1)``; its value is the integer times the scale of its output channel.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """One weight tensor as its stored bits."""

    codes: Tensor
    """Bit patterns, dtype int32, in the weight's shape; those of few bits sign-extended."""
    bits: int
    """Bits that are stored of each weight."""
    decode: Callable[[Tensor], Tensor]
    """Takes codes of the weight's shape and returns the values that they mean, float32."""
    form: str
    """What is stored, in words."""

    @classmethod
    def float32(cls, weight: Tensor) -> StoredWeights:
        """Store a weight as it is, in single precision."""
        patterns = weight.detach().float().contiguous().view(torch.int32)
        return cls(patterns, FLOAT_BITS, lambda codes: codes.view(torch.float32), "float32")

    @classmethod
    def integers(cls, weight: Tensor, bits: int, axis: int = 0) -> StoredWeights:
        """Round a weight to symmetric integers, with a scale for each output channel.

        ``scale = max |w| / (2^(b-1) - 1)``, ``code = round(w / scale)`` (Krishnamoorthi,
        "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2).

        Args:
            weight: Of any shape.
            bits: b, 2 to 8.
            axis: Where its output channels are.
        """
        weight = weight.detach().float()
        others = [dim for dim in range(weight.ndim) if dim != axis]
        largest = 2 ** (bits - 1) - 1
        scale = weight.abs().amax(dim=others, keepdim=True) / largest
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        codes = (weight / scale).round().clamp(-largest, largest).to(torch.int32)
        return cls(codes, bits, lambda codes: codes * scale, f"{bits}-bit integers")

    def values(self) -> Tensor:
        """Return the weights that these bits mean, float32, in the weight's shape."""
        return self.decode(self.codes)

    def values_after_flip(self, bit: int) -> Tensor:
        """Return what each weight would be if its bit ``bit`` (0 the lowest) were flipped."""
        return self.decode(self.codes ^ self._mask(bit))

    def flipped(self, index: int, bit: int) -> StoredWeights:
        """Flip one bit; the codes of this object stay as they are.

        Args:
            index: Of the weight, in the flattened tensor.
            bit: 0 the lowest, ``bits - 1`` the highest.
        """
        codes = self.codes.flatten().clone()
        codes[index] ^= self._mask(bit)
        return dataclasses.replace(self, codes=codes.view(self.codes.shape))

    def _mask(self, bit: int) -> int:
        if not 0 <= bit < self.bits:
            raise ValueError(f"bit must be 0 to {self.bits - 1}, but got {bit}")
        # The sign bit goes with all those that extend it, so that codes stay sign-extended.
        return -(1 << bit) if bit == self.bits - 1 else 1 << bit


def random_flips(
    stored: Mapping[str, StoredWeights], count: int, source: random.Random
) -> dict[str, StoredWeights]:
    """Flip distinct bits, every stored bit being equally likely.

    Args:
        stored: Tensors by name; left as they are.
        count: Bits to flip in all, at most as many as there are.
        source: Where chance comes from.

    Returns:
        The tensors that changed.
    """
    sizes = {name: weights.codes.numel() * weights.bits for name, weights in stored.items()}
    total = sum(sizes.values())
    changed: dict[str, StoredWeights] = {}
    for position in source.sample(range(total), min(count, total)):
        for name, size in sizes.items():
            if position < size:
                index, bit = divmod(position, stored[name].bits)
                changed[name] = changed.get(name, stored[name]).flipped(index, bit)
                break
            position -= size
    return changed
