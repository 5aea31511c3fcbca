"""Latency."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import Integers, Variants


class LatencyModel(Protocol):
    """Anything that predicts latencies."""

    def predict_ms(self, widths: Integers) -> npt.NDArray[np.float64]:
        """Return milliseconds, shape ``(variants,)``, of widths ``(variants, pruned groups)``."""


class LatencyMs(Cost):
    """Milliseconds of a forward pass on a device.

    It is measured of a variant once it is built, and before predicted from measurements of layers.
    """

    label = "latency"
    title = "Latency"
    unit = "ms"
    predicted = True

    def __init__(self, predictor: LatencyModel, config: Any = None) -> None:
        """Keep what predicts it."""
        super().__init__(config)
        self._predictor = predictor

    def of(self, variants: Variants) -> npt.NDArray[np.float64]:
        """See :meth:`Cost.of`."""
        return self._predictor.predict_ms(variants.units)
