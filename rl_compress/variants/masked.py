"""The fast path of sparse structures: one dense network, of which variants keep fewer weights.

As channels do, the units of a group are ordered by importance once: a weight stays in a variant if
the rank of its unit is below the width of its group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rl_compress.importance.soft_threshold import soft_threshold
from rl_compress.model.axes import named_tensors
from rl_compress.model.groups import LayerGroup
from rl_compress.space.search_space import Amounts
from rl_compress.variants.slimmable import copy_with

_GROUP, _RANK = ":group", ":rank"
"""Behind a weight's name, in the names of what is kept beside it."""


@dataclass(slots=True)
class MaskedNetwork:
    """A model whose variants share its tensors, but for the weights that are masked."""

    skeleton: nn.Module
    """The model's modules with tensors on the meta device."""
    tensors: dict[str, Tensor]
    """Parameters and buffers by name; beside each weight that can be masked the group of its
    elements, and their rank within it, either for each element or one for all."""
    groups: tuple[LayerGroup, ...]
    """The groups that widths refer to, in the order of the search space."""
    shrinkage: float = 0.0
    """How much closer to zero the weights of a tensor come of which others are masked."""

    def add_order(self, name: str, group: Tensor, rank: Tensor) -> None:
        """Say in which order the elements of a weight go.

        Args:
            name: The weight.
            group: Index of each element's group, in the weight's shape, or of all; -1: stays.
            rank: Rank of each element's unit within its group, 0 being the most important.
        """
        self.tensors[name + _GROUP] = group.to(torch.int32)
        self.tensors[name + _RANK] = rank.to(torch.int32)

    def with_tensors(
        self, tensors: Mapping[str, Tensor], packed: Path | None = None
    ) -> MaskedNetwork:
        """Return the same with other tensors, such as mapped ones; nothing is packed here."""
        return dataclasses.replace(self, tensors=dict(tensors))

    def masks(self, widths: Amounts) -> dict[str, Tensor]:
        """Return which elements of each weight stay, in its shape.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
        """
        masks = {}
        for key in self.tensors:
            if key.endswith(_GROUP):
                name = key.removesuffix(_GROUP)
                group, rank = self.tensors[key], self.tensors[name + _RANK]
                # Behind the last width comes the one of elements that always stay.
                limits = torch.tensor([*widths.tolist(), 1 << 30], device=group.device)
                kept = rank < limits[group.long()]
                masks[name] = kept.expand(self.tensors[name].shape)
        return masks

    def uncompressed(self) -> nn.Module:
        """Return the whole network, with all weights."""
        return self.variant(np.array([group.num_units for group in self.groups]))

    def variant(self, widths: Amounts, *, quantized: bool = True) -> nn.Module:
        """Build the masked network, in evaluation mode; replace its tensors, never write in them.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.
            quantized: Without meaning here: sparse weights are quantized when they are masked.
        """
        masks = self.masks(widths)
        tensors = {
            name: self.masked(self.tensors[name], masks[name])
            if name in masks
            else self.tensors[name]
            for name in named_tensors(self.skeleton)
        }
        return copy_with(self.skeleton, tensors).eval()

    def masked(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Return what is left of a weight; with all of it kept, the weight itself."""
        if mask.all():
            return weight
        return soft_threshold(weight, self.shrinkage) * mask.to(weight.device)

    def to(self, device: torch.device) -> MaskedNetwork:
        """Return the same network with its tensors on a device."""
        return self.with_tensors({name: t.to(device) for name, t in self.tensors.items()})

    def narrowed_weights(self, group: int, widths: Amounts) -> list[Tensor]:
        """Return what is left of a group's weights at some widths, zeros left out."""
        layer = self.groups[group].layers[0]
        name = f"{layer}.weight" if layer else "weight"
        chosen = (self.tensors[name + _GROUP] == group).expand(self.tensors[name].shape)
        return [self.tensors[name][chosen & self.masks(widths)[name]]]
