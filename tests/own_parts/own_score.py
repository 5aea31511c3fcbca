"""A score of a user's own."""

from __future__ import annotations

import torch
from torch import nn

from rl_compress.evaluation.scores import Score
from rl_compress.registry import Part


class Agreement(Score):
    """How often a variant decides as the uncompressed model does."""

    class Config(Part.Config):
        scale: float = 100.0

    def __call__(self, variant: nn.Module) -> float:
        agreed, count = 0, 0
        with torch.no_grad():
            for batch in self.target.batches("search"):
                one, other = (
                    self.target.forward(model, batch).argmax(1)
                    for model in (variant, self.reference)
                )
                agreed += int((one == other).sum())
                count += len(one)
        return self.config.scale * agreed / count
