"""How much each unit of a group matters: what ranks units before the less important are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_compress.layers.groups import LayerGroup

Norm = Literal["l1", "l2"]


def unit_importance(
    tensors: Mapping[str, Tensor], group: LayerGroup, norm: Norm
) -> npt.NDArray[np.float64]:
    """Score the units of a group by the norm of all weights that would go with them.

    Every weight tensor of the group contributes its units' norms, divided by their mean, so that
    no layer outweighs the others by its scale (Fang et al., "DepGraph", CVPR 2023, section 3.3).

    Args:
        tensors: The model's parameters and buffers by name.
        group: A prunable group.
        norm: Which norm of a unit's weights.

    Returns:
        Non-negative scores, shape ``(num_units,)``.
    """
    total = np.zeros(group.num_units)
    for axis in group.axes:
        tensor = tensors[axis.tensor]
        if tensor.ndim < 2:
            continue  # biases and norms scale with the weights they follow
        weight = tensor.detach().to(torch.float64)
        power = weight.abs() if norm == "l1" else weight.square()
        others = [dim for dim in range(weight.ndim) if dim != axis.axis]
        per_index = power.sum(dim=others).cpu().numpy()
        per_unit = per_index[axis.positions].sum(axis=1)
        per_unit = per_unit if norm == "l1" else np.sqrt(per_unit)
        total += per_unit / max(per_unit.mean(), np.finfo(np.float64).tiny)
    return total


def rank_units(
    tensors: Mapping[str, Tensor], group: LayerGroup, norm: Norm
) -> npt.NDArray[np.int64]:
    """Return the group's units from most to least important, shape ``(num_units,)``."""
    return np.argsort(-unit_importance(tensors, group, norm), kind="stable")
