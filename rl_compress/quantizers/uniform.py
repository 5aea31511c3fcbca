"""Affine uniform quantization: a grid between two ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.quantizers.even_grid import EvenGrid, least_even
from rl_compress.quantizers.quantizer import Parameters, Quantizer


class Uniform(Quantizer):
    """Levels ``minimum + s q`` with ``q = 0 … 2^bits - 1``.

    The ends are the extremes of the block, clipped to the reach of the range estimator (Jacob et
    al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR 2018, equation 1, with the offset kept as a real number). Values that are never
    negative have zero as their lowest level.
    """

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``minimum`` and ``scale``, each of shape ``(num_blocks, 1)``."""
        low = blocks.amin(dim=1, keepdim=True)
        high = blocks.amax(dim=1, keepdim=True)
        low = torch.where(low > 0, torch.zeros_like(low), low)
        high = torch.where(high < 0, torch.zeros_like(high), high)

        def grid(reach: Tensor) -> Parameters:
            bottom, top = torch.maximum(low, -reach), torch.minimum(high, reach)
            return {"minimum": bottom, "scale": (top - bottom) / (self.num_levels - 1)}

        def choose(reaches: Sequence[Tensor]) -> Tensor:
            return least_even(blocks, reaches, lambda reach: self._grid(grid(reach)))

        return grid(self.clip(blocks, choose))

    def encode(self, blocks: Tensor, parameters: Parameters, *, run: int | None = None) -> Tensor:
        """See :meth:`Quantizer.encode`."""
        return self._grid(parameters).codes(blocks)

    def _grid(self, parameters: Parameters) -> EvenGrid:
        return EvenGrid(parameters["scale"], 0, self.num_levels - 1, parameters["minimum"])

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the grid."""
        scale = parameters["scale"]
        steps = torch.arange(self.num_levels, device=scale.device, dtype=scale.dtype)
        return parameters["minimum"] + scale * steps

    def fake_quantize(self, blocks: Tensor, parameters: Parameters) -> Tensor:
        """Round without a table, in operations that can be exported."""
        minimum, scale = parameters["minimum"], parameters["scale"]
        steps = ((blocks - minimum) / scale.clamp_min(torch.finfo(scale.dtype).tiny)).round()
        return minimum + scale * steps.clamp(0, self.num_levels - 1)
