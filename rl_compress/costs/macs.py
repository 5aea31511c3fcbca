"""MACs."""

from __future__ import annotations

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import Integers, Variants


class Macs(Cost):
    """Multiply-accumulate operations of a forward pass of one sample; zeros take none."""

    label = "MACs"
    title = "MACs per sample"

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = variants.macs.sum(axis=1)
        return total
