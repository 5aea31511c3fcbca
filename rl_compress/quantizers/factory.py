"""From the `quantization` section of a job to quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_compress.quantizers.quantizer import Quantizer
from rl_compress.quantizers.ranges import make_clip
from rl_compress.registry import QUANTIZERS
from rl_compress.space.space_config import QuantizationConfig


def make_quantizer(
    name: str, bits: int, config: QuantizationConfig, options: Mapping[str, Any] | None = None
) -> Quantizer:
    """Return a quantizer.

    Args:
        name: As :data:`~rl_compress.registry.QUANTIZERS` knows it, or ``package.module:Class``.
        bits: Bits of a code, 1 to 8.
        config: Range estimator and threshold.
        options: Those of its ``Config``.

    Raises:
        ConfigError: The number of bits is out of range, or there is no such class or option.
    """
    made, parsed = QUANTIZERS.load(name, options, key="space.quantization.quantizer")
    clip = make_clip(config.range, bits, config.percentile)
    quantizer: Quantizer = made.configured(bits, clip, config)
    quantizer.config = parsed
    return quantizer


def remake_quantizer(identity: Mapping[str, Any]) -> Quantizer:
    """Return a quantizer that decodes what another encoded.

    Args:
        identity: See :attr:`Quantizer.identity`.
    """
    return make_quantizer(
        identity["quantizer"], identity["bits"], QuantizationConfig(), identity.get("options")
    )
