"""From the `quantization` section of a job to quantizers."""

from __future__ import annotations

from rl_compress.quantizers.quantizer import Quantizer
from rl_compress.quantizers.ranges import make_clip
from rl_compress.registry import QUANTIZERS
from rl_compress.space.space_config import QuantizationConfig


def make_quantizer(name: str, bits: int, config: QuantizationConfig) -> Quantizer:
    """Return a quantizer.

    Args:
        name: As :data:`~rl_compress.registry.QUANTIZERS` knows it, or ``package.module:Class``.
        bits: Bits of a code, 1 to 8.
        config: Range estimator and threshold.

    Raises:
        ConfigError: The number of bits is out of range, or there is no such class.
    """
    made: type[Quantizer] = QUANTIZERS.find(name, Quantizer)
    return made.configured(bits, make_clip(config.range, bits, config.percentile), config)
