"""Symmetric uniform quantization: a grid around zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.quantizers.even_grid import EvenGrid, least_even
from rl_compress.quantizers.quantizer import Parameters, Quantizer


class Symmetric(Quantizer):
    """Levels ``s q`` with ``q = -Q … Q`` and ``Q = 2^(bits - 1) - 1``; one bit is ``{-s, s}``.

    Zero is a level from two bits on, and the one code left over is not used (Krishnamoorthi,
    "Quantizing deep convolutional networks for efficient inference", 2018, section 2.2). With one
    bit and an unlimited range the scale is the mean absolute value, which has the least squared
    error (Rastegari et al., "XNOR-Net", ECCV 2016, equation 6).
    """

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``scale``, shape ``(num_blocks, 1)``."""
        if self.bits == 1:
            return {"scale": blocks.abs().mean(dim=1, keepdim=True)}

        def choose(reaches: Sequence[Tensor]) -> Tensor:
            return least_even(blocks, reaches, lambda reach: self._grid(reach / self.largest))

        return {"scale": self.clip(blocks, choose) / self.largest}

    def encode(self, blocks: Tensor, parameters: Parameters, *, run: int | None = None) -> Tensor:
        """See :meth:`Quantizer.encode`."""
        if self.bits == 1:
            return super().encode(blocks, parameters)
        scale = parameters["scale"]
        # The last level is repeated, and what lies beyond it is given the second of its codes.
        return self._grid(scale).codes(blocks).add_(blocks > self.largest * scale)

    @property
    def largest(self) -> int:
        """Return Q."""
        return max((self.num_levels >> 1) - 1, 1)

    def _grid(self, scale: Tensor) -> EvenGrid:
        return EvenGrid(scale, -self.largest, self.largest)

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the grid."""
        return parameters["scale"] * symmetric_grid(self.bits, parameters["scale"])

    def fake_quantize(self, blocks: Tensor, parameters: Parameters) -> Tensor:
        """Round without a table, in operations that can be exported."""
        scale = parameters["scale"]
        if self.bits == 1:
            return torch.where(blocks > 0, scale, -scale)
        steps = (blocks / scale.clamp_min(torch.finfo(scale.dtype).tiny)).round()
        return steps.clamp(-self.largest, self.largest) * scale


def symmetric_grid(bits: int, like: Tensor) -> Tensor:
    """Return the integers of a symmetric grid, the last one repeated, shape ``(2^bits,)``."""
    if bits == 1:
        return like.new_tensor([-1.0, 1.0])
    largest = (1 << (bits - 1)) - 1
    return torch.arange(-largest, largest + 2, device=like.device).clamp(max=largest).to(like.dtype)
