"""No ranking at all, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, Scores
from rl_compress.model.groups import LayerGroup

_SEED = 0


class Random(Importance):
    """Uniform between 0 and 1, the same every time."""

    def weights(self, evidence: Evidence) -> dict[str, Tensor]:
        """See :meth:`Importance.weights`."""
        generator = torch.Generator().manual_seed(_SEED)
        return {
            name: torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            for name, weight in evidence.weights.items()
        }

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """See :meth:`Importance.units`."""
        rng = np.random.default_rng(_SEED)
        return [rng.random(group.num_units) for group in groups]
