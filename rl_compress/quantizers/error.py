"""How far quantized values are from the original ones."""

from __future__ import annotations

import math

from torch import Tensor


def sqnr_db(original: Tensor, quantized: Tensor) -> float:
    """Return the signal to quantization noise ratio, ``10 log10(sum x^2 / sum (x - q)^2)``, in dB.

    Infinite where nothing was lost, and minus infinite where there was no signal.
    """
    signal = float(original.double().square().sum())
    noise = float((original.double() - quantized.double()).square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
