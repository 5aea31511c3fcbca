"""Range estimators: how far the values of a block reach before they are clipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rl_compress.quantizers.distribution import optimal_clipping
from rl_compress.quantizers.quantizer import Choose, Clip
from rl_compress.space.space_config import RangeMethod

_COARSE = torch.linspace(1.0, 0.1, 19)
"""Clipping values tried first, relative to the extreme."""
_FINE = torch.linspace(-0.045, 0.045, 9)
"""Clipping values tried then, relative to the best of the first."""


def make_clip(method: RangeMethod, bits: int, percentile: float) -> Clip:
    """Return the range estimator of a method.

    Args:
        method: `minmax`: the largest absolute value; `percentile`: of the absolute values; `aciq`:
            see :mod:`rl_compress.quantizers.distribution`; `mse`: where the squared error is
            least, searched from coarse to fine.
        bits: Bits of a code, for `aciq`.
        percentile: In percent, for `percentile`.

    Returns:
        ``clip(blocks, choose)`` returns a reach of shape ``(num_blocks, 1)``; ``choose`` returns,
        block by block, the one of several such that has the least squared error.
    """

    def minmax(blocks: Tensor, choose: Choose) -> Tensor:
        return _extreme(blocks)

    def by_percentile(blocks: Tensor, choose: Choose) -> Tensor:
        rank = max(1, math.ceil(percentile / 100 * blocks.shape[1]))
        return blocks.abs().kthvalue(rank, dim=1, keepdim=True).values

    def aciq(blocks: Tensor, choose: Choose) -> Tensor:
        return torch.minimum(optimal_clipping(blocks, bits), _extreme(blocks))

    methods: dict[str, Clip] = {
        "minmax": minmax,
        "percentile": by_percentile,
        "aciq": aciq,
        "mse": least_error,
    }
    return methods[method]


def least_error(blocks: Tensor, choose: Choose) -> Tensor:
    """Return the reach with the least error of each block, from coarse to fine."""
    extreme = _extreme(blocks)
    best = choose([ratio * extreme for ratio in _COARSE])
    return choose([best, *(best + step * extreme for step in _FINE if step)])


def best_of(candidates: Sequence[Tensor], error: Callable[[Tensor], Tensor]) -> Tensor:
    """Return, block by block, the candidate with the least error, and of equals the first.

    Args:
        candidates: Each of shape ``(num_blocks, 1)``.
        error: Of one candidate, same shape.
    """
    best, *others = candidates
    least = error(best)
    for candidate in others:
        found = error(candidate)
        best = torch.where(found < least, candidate, best)
        least = torch.minimum(found, least)
    return best


def _extreme(blocks: Tensor) -> Tensor:
    return blocks.abs().amax(dim=1, keepdim=True)
