"""Weights times the size of their inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance


class Activation(Importance):
    """Wanda (Sun et al., "A simple and effective pruning approach …", ICLR 2024, equation 1)."""

    needs = "data"

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        """Return ``|w| ||x||_2``, with x the inputs that the weight is multiplied by."""
        return weight.abs() * evidence.input_norms.get(name, torch.ones(1))
