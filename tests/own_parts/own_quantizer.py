"""A quantizer of a user's own; what it decodes depends on its option."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rl_compress.quantizers.quantizer import Parameters, Quantizer
from rl_compress.registry import Part


class Even(Quantizer):
    """Levels evenly between the extremes of a block, drawn together by a share."""

    class Config(Part.Config):
        reach: float = Field(default=1.0, gt=0, le=1)

    def fit(self, blocks: Tensor) -> Parameters:
        return {"low": blocks.amin(1, keepdim=True), "high": blocks.amax(1, keepdim=True)}

    def levels(self, parameters: Parameters) -> Tensor:
        low, high = (self.config.reach * parameters[name] for name in ("low", "high"))
        return low + torch.linspace(0, 1, self.num_levels) * (high - low)
