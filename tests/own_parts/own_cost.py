"""A cost of a user's own."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import Variants


class WeightEnergy(Cost):
    """What it takes to fetch the weights: half a picojoule for each bit."""

    label = "weight energy"
    unit = "pJ"
    bits = ("weight_bits",)

    def of(self, variants: Variants) -> npt.NDArray[Any]:
        tensors = variants.tensors
        return 0.5 * (tensors.elements * tensors.bits.stored).sum(axis=1)
