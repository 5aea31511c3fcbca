"""What all baselines have in common.

A baseline proposes what to keep (``ask``) and hears of the reward (``tell``). Candidates are
projected onto the budget as the agent's are. The seed and the rewards decide all proposals, so that
a resumed run repeats its first part from the stored records.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Keep = npt.NDArray[np.float64]
"""Level of each dimension as a fraction of its highest one, shape ``(D,)``."""


class Baseline(Protocol):
    """A search that needs no gradient."""

    fill: bool
    """Whether candidates that leave budget unused are scaled up to it."""

    def ask(self) -> Keep | None:
        """Return the next candidate, or None when there is no other."""

    def tell(self, keep: Keep, reward: float) -> None:
        """Hear the reward of the candidate asked for last, as it was carried out."""
