"""Bit operations."""

from __future__ import annotations

import numpy as np

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import Integers, Variants


class Bops(Cost):
    """MACs times the bits of both factors; what has no weight is not quantized."""

    label = "bit operations"
    title = "Bit operations per sample"
    bits = ("weight_bits", "activation_bits")

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = np.einsum("vr,vr->v", variants.macs, variants.bits_per_mac)
        return total
