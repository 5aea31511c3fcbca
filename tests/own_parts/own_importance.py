"""An importance of a user's own."""

from __future__ import annotations

from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance
from rl_compress.registry import Part


class Power(Importance):
    """``|w|^p``."""

    class Config(Part.Config):
        power: float = 1.0

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        return weight.abs() ** self.config.power
