"""Distance from the geometric median of a layer's units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, Scores, over_axes
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup


class GeometricMedian(Importance):
    """Units near the median can be replaced by the others (He et al., CVPR 2019, equation 6)."""

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """See :meth:`Importance.units`."""
        return [over_axes(evidence.tensors, group, _distances) for group in groups]


def _distances(tensor: Tensor, axis: Axis) -> Tensor:
    """Return how far each unit's weights are from all others'."""
    rows = tensor.movedim(axis.axis, 0)[torch.from_numpy(axis.positions)].double().flatten(1)
    return torch.cdist(rows, rows).sum(dim=1)
