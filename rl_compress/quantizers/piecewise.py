"""Piecewise linear quantization: a dense grid in the centre, a sparse one in the tails."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.quantizers.quantizer import Parameters, Quantizer, squared_error
from rl_compress.quantizers.ranges import best_of

_RATIOS = torch.linspace(0.1, 0.9, 9)
"""Break-points tried first, relative to the reach."""
_FINE = torch.tensor([-0.05, -0.025, 0.025, 0.05])
"""Break-points tried then, relative to the reach, around the best of the first."""


class Piecewise(Quantizer):
    """The range is cut at ``-p`` and ``p``; centre and tails have half of the codes each.

    ``2^(bits - 1)`` levels lie evenly from ``-p`` to ``p``, and ``2^(bits - 2)`` more on either
    side up to the reach ``m``; the break-point p has the least squared error (Fang et al.,
    "Post-training piecewise linear quantization for deep neural networks", ECCV 2020, section 3.2,
    with the break-point searched instead of taken from a Gaussian). Where both steps are equal this
    is the uniform grid from ``-m`` to ``m``, which is among the candidates. One bit is ``{-m, m}``.
    """

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``reach`` and ``breakpoint``, each of shape ``(num_blocks, 1)``."""
        if self.bits == 1:
            reach = blocks.abs().mean(dim=1, keepdim=True)
            return {"reach": reach, "breakpoint": reach}
        even = self._even_ratio

        def error_at(reach: Tensor, ratio: Tensor) -> Tensor:
            grid = self.levels({"reach": reach, "breakpoint": reach * ratio})
            return squared_error(blocks, grid)

        def best_ratio(reach: Tensor) -> Tensor:
            ones = torch.ones_like(reach)
            coarse = [ones * even, *(ones * ratio for ratio in _RATIOS)]
            ratio = best_of(coarse, lambda ratio: error_at(reach, ratio))
            fine = [(ratio + step).clamp(0.02, 0.98) for step in _FINE]
            return best_of([ratio, *fine], lambda ratio: error_at(reach, ratio))

        def error(reach: Tensor) -> Tensor:
            # Break-points are refined for the reach that is chosen; to choose it, fewer will do.
            tried = [reach.new_full(reach.shape, float(r)) for r in (even, 0.25, 0.45, 0.65)]
            return torch.stack([error_at(reach, ratio) for ratio in tried]).amin(dim=0)

        reach = self.clip(blocks, lambda reaches: best_of(reaches, error))
        return {"reach": reach, "breakpoint": reach * best_ratio(reach)}

    @property
    def _even_ratio(self) -> float:
        """Return the break-point, relative to the reach, at which all steps are equal."""
        centre, tail = (1 << (self.bits - 1)) - 1, 1 << (self.bits - 2)
        return centre / (centre + 2 * tail)

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the grids of both tails and the centre."""
        reach, breakpoint_ = parameters["reach"], parameters["breakpoint"]
        if self.bits == 1:
            return torch.cat([-reach, reach], dim=1)
        num_centre, num_tail = 1 << (self.bits - 1), 1 << (self.bits - 2)
        centre = breakpoint_ * torch.linspace(-1.0, 1.0, num_centre, device=reach.device)
        steps = torch.arange(1, num_tail + 1, device=reach.device) / num_tail
        tail = breakpoint_ + (reach - breakpoint_) * steps
        return torch.cat([-tail.flip(1), centre, tail], dim=1)
