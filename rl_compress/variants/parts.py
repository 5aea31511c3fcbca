"""What a compressor is made of, however its target is pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl_compress.costs.analytic import AnalyticCosts
from rl_compress.costs.sparse import SparseCosts
from rl_compress.errors import ConfigError, UnsupportedLayerError
from rl_compress.importance.contribution import ContributionResult
from rl_compress.model.groups import LayerGroup
from rl_compress.quantizers.bits import BitPlan
from rl_compress.space.search_space import SearchSpace
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.masked import MaskedNetwork
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
    network: SlimmableNetwork | MaskedNetwork
    costs: AnalyticCosts | SparseCosts
    parents: list[LayerGroup]
    """For each dimension that prunes the layer group that its units are in."""
    orders: list[npt.NDArray[np.int64]]
    """For each dimension that prunes its units, numbered as in its parent, from most to least
    important; not filled in for sparse structures, whose network has the ranks."""
    importances: list[Scores]
    """For each dimension that prunes the importance of its units."""
    contribution: ContributionResult | None = None
    """How the importances came about, with ``importance: contribution``."""


def some_prunable(groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    """Return the groups that can be pruned.

    Raises:
        UnsupportedLayerError: There is none; the message says why.
    """
    prunable = [group for group in groups if group.prunable]
    if not prunable:
        reasons = "; ".join(f"{group.name}: {group.reason}" for group in groups)
        raise UnsupportedLayerError(
            f"target: the model has no prunable group ({reasons or 'no layers found'}); "
            f"it needs convolutions or linear layers in front of its last layer"
        )
    return prunable


def check_mask_size(units: int, config: SpaceConfig) -> None:
    """Refuse masks over more units than an agent can decide singly.

    Raises:
        ConfigError: There are more than the job admits.
    """
    if units > config.max_mask_units:
        raise ConfigError(
            f"space.action: a mask over {units:,d} units is beyond space.max_mask_units "
            f"({config.max_mask_units:,d}); choose action: ratio, a coarser "
            f"space.pruning.structure, or list layers in space.skip"
        )
