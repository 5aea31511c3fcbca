"""What the loss would change without a weight, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance


class Taylor(Importance):
    """Weight times gradient (Molchanov et al., CVPR 2019, equation 8)."""

    needs = "data"

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        """Return ``|w dL/dw|``, the mean over calibration batches."""
        batches = [(weight * gradients[name]).abs() for gradients in evidence.gradients]
        return torch.stack(batches).mean(dim=0)
