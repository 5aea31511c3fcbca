"""Weights to quantize, and how."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.space.space_config import QuantizationConfig


def make_weight(
    kind: str = "gauss", shape: tuple[int, ...] = (6, 8, 3, 3), seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "gauss":
        return torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs() * 0.9999)


def make_config(name: str, bits: int = 4, **changes: object) -> QuantizationConfig:
    return QuantizationConfig(quantizer=name, weight_bits=bits, group_size=24, **changes)
