"""Blocks of weights become zero."""

from __future__ import annotations

from torch import Tensor

from rl_compress.importance.units import block_map
from rl_compress.transforms.weights import Weights


class Blocks(Weights):
    """See :class:`Weights`; a unit is a block of outputs and inputs."""

    def parts(self, name: str, weight: Tensor) -> Tensor:
        """See :meth:`Weights.parts`."""
        return block_map(weight, name, self.space.pruning.block_shape)
