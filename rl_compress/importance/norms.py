"""Norms of weights: what is small is cut first.

Of a unit, every weight tensor of its group contributes the norm of what would go with it, divided
by the mean over units, so that no layer outweighs the others by its scale (Fang et al., "DepGraph",
CVPR 2023, section 3.3).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, Scores, added_up, over_axes
from rl_compress.model.axes import Axis
from rl_compress.model.groups import LayerGroup


class Norm(Importance):
    """A norm."""

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """See :meth:`Importance.units`."""
        return [over_axes(evidence.tensors, group, self.norm) for group in groups]

    @staticmethod
    @abstractmethod
    def norm(tensor: Tensor, axis: Axis) -> Tensor:
        """Return the norm of each unit's weights in a tensor, shape ``(num_units,)``."""


class L1(Norm):
    """The sum of absolute values."""

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        """Return ``|w|``."""
        return weight.abs()

    @staticmethod
    def norm(tensor: Tensor, axis: Axis) -> Tensor:
        """See :meth:`Norm.norm`."""
        return added_up(tensor, axis, torch.abs)


class L2(Norm):
    """The root of the sum of squares."""

    def weight(self, name: str, weight: Tensor, evidence: Evidence) -> Tensor:
        """Return ``w^2``."""
        return weight.square()

    @staticmethod
    def norm(tensor: Tensor, axis: Axis) -> Tensor:
        """See :meth:`Norm.norm`."""
        return added_up(tensor, axis, torch.square).sqrt()
