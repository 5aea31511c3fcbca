"""K-means code books: levels wherever the values are. The reference for all other quantizers."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.quantizers.quantizer import Clip, Parameters, Quantizer, nearest

_ITERATIONS = 10
_SEED = 0


class KMeans(Quantizer):
    """Lloyd's algorithm from k-means++ centres (Arthur and Vassilvitskii, SODA 2007).

    As HAQ quantizes weights (Wang et al., CVPR 2019, section 3.4). Every block stores its whole
    code book, which pays for blocks of thousands of values only. The range estimator has no part
    in it. Deterministic: centres are drawn with a fixed seed.
    """

    def __init__(self, bits: int, clip: Clip) -> None:
        """Set the precision; ``clip`` is not used."""
        super().__init__(bits, clip)

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``codebook``, increasing, shape ``(num_blocks, num_levels)``."""
        centres = self._first_centres(blocks)
        for _ in range(_ITERATIONS):
            codes = nearest(blocks, centres).long()
            counts = torch.zeros_like(centres).scatter_add_(1, codes, torch.ones_like(blocks))
            sums = torch.zeros_like(centres).scatter_add_(1, codes, blocks)
            means = sums / counts.clamp_min(1.0)
            centres = torch.where(counts > 0, means, centres).sort(dim=1).values
        return {"codebook": centres}

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the code book."""
        return parameters["codebook"]

    def _first_centres(self, blocks: Tensor) -> Tensor:
        """Draw centres, each with a probability in proportion to the squared distance so far."""
        generator = torch.Generator().manual_seed(_SEED)
        draws = torch.rand(self.num_levels, len(blocks), 1, generator=generator).to(blocks)
        first = (draws[0] * blocks.shape[1]).long().clamp(max=blocks.shape[1] - 1)
        centres = [blocks.gather(1, first)]
        distance = (blocks - centres[0]).square()
        for draw in draws[1:]:
            cumulated = distance.cumsum(dim=1)
            place = torch.searchsorted(cumulated, draw * cumulated[:, -1:])
            centres.append(blocks.gather(1, place.clamp(max=blocks.shape[1] - 1)))
            distance = torch.minimum(distance, (blocks - centres[-1]).square())
        return torch.cat(centres, dim=1).sort(dim=1).values
