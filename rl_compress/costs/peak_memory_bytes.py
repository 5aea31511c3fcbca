"""Activation memory."""

from __future__ import annotations

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import Integers, Variants


class PeakMemoryBytes(Cost):
    """Most bytes of activations alive at once in a forward pass of one sample."""

    label = "activation memory"
    title = "Peak activation memory"
    unit = "B"

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        return variants.model.memory.peak_bytes(variants.units)
