"""From the `quantization` section of a job to quantizers."""

from __future__ import annotations

from rl_compress.quantizers.cumulative_shift import CumulativeShift
from rl_compress.quantizers.kmeans import KMeans
from rl_compress.quantizers.piecewise import Piecewise
from rl_compress.quantizers.polynomial import Polynomial
from rl_compress.quantizers.quantizer import Quantizer
from rl_compress.quantizers.ranges import make_clip
from rl_compress.quantizers.symmetric import Symmetric
from rl_compress.quantizers.uniform import Uniform
from rl_compress.space.space_config import QuantizationConfig, QuantizerName

QUANTIZERS: dict[str, type[Quantizer]] = {
    quantizer.name: quantizer
    for quantizer in (Symmetric, Uniform, Piecewise, CumulativeShift, Polynomial, KMeans)
}


def make_quantizer(name: QuantizerName, bits: int, config: QuantizationConfig) -> Quantizer:
    """Return a quantizer.

    Args:
        name: One of :data:`QUANTIZERS`.
        bits: Bits of a code, 1 to 8.
        config: Range estimator and threshold.

    Raises:
        ConfigError: The number of bits is out of range.
    """
    clip = make_clip(config.range, bits, config.percentile)
    if name == CumulativeShift.name:
        return CumulativeShift(bits, clip, config.contribution_threshold)
    return QUANTIZERS[name](bits, clip)
