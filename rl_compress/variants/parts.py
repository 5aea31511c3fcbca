"""What a compressor is made of, however its target is pruned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl_compress.costs.level_costs import LevelCosts
from rl_compress.importance.contribution import ContributionResult
from rl_compress.model.groups import LayerGroup
from rl_compress.quantizers.bits import BitPlan
from rl_compress.space.search_space import SearchSpace
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.slimmable import SlimmableNetwork

Scores = npt.NDArray[np.float64]


@dataclass(slots=True)
class Parts:
    """A target's groups, search space, costs, and shared weights."""

    config: SpaceConfig
    groups: list[LayerGroup]
    """All layer groups in forward order, those that cannot be pruned with the reason."""
    notes: list[str]
    """What else the user should know of the model's layers."""
    space: SearchSpace
    """What is decided: units of the prunable groups, or every single unit (masks); bits."""
    bits: BitPlan
    """Where the bits of each layer come from."""
    network: SlimmableNetwork
    costs: LevelCosts
    parents: list[LayerGroup]
    """For each dimension that prunes the layer group that its units are in."""
    orders: list[npt.NDArray[np.int64]]
    """For each dimension that prunes its units, numbered as in its parent, from most to least
    important; empty where elements become zero, for the network has their ranks."""
    importances: list[Scores]
    """For each dimension that prunes the importance of its units."""
    contribution: ContributionResult | None = None
    """How the importances came about, with ``importance: contribution``."""
