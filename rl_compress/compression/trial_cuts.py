"""Trial cuts: every group proves that it can be narrowed before the search relies on it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rl_compress.compression.physical import cut
from rl_compress.compression.slimmable import SlimmableNetwork
from rl_compress.layers.axes import named_tensors
from rl_compress.layers.groups import LayerGroup
from rl_compress.pruning.importance import rank_units

logger = logging.getLogger(__name__)

_AGREEMENT = 1e-4
"""Largest difference of the two paths' outputs, relative to the largest output (float32)."""


def try_groups(
    model: nn.Module, groups: Sequence[LayerGroup], example_inputs: Sequence[Tensor]
) -> list[LayerGroup]:
    """Cut half of every group in turn, and all together, and mark those that do not survive it."""
    tried = list(groups)
    for index, group in enumerate(tried):
        if group.prunable:
            reason = _trial_cut(model, [group], example_inputs, physical=False)
            tried[index] = dataclasses.replace(group, reason=reason)
    prunable = [group for group in tried if group.prunable]
    if prunable and _trial_cut(model, prunable, example_inputs, physical=True):
        # Together they fail: find those that fail alone, the slow way.
        for index, group in enumerate(tried):
            if group.prunable:
                reason = _trial_cut(model, [group], example_inputs, physical=True)
                tried[index] = dataclasses.replace(group, reason=reason)
    return tried


def _trial_cut(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    example_inputs: Sequence[Tensor],
    *,
    physical: bool,
) -> str | None:
    """Halve some groups and run the result; return what went wrong, or None."""
    widths = np.array([max(1, group.num_units // 2) for group in groups], dtype=np.int64)
    inputs = _noise_like(example_inputs)
    try:
        with torch.no_grad():
            tensors = named_tensors(model)
            orders = [rank_units(tensors, group, "l2") for group in groups]
            expected = model(*inputs)
            outputs = SlimmableNetwork.from_model(model, groups, orders).variant(widths)(*inputs)
            if outputs.shape != expected.shape:
                return "its channels are the model's output"
            if physical:
                removed = {
                    group.name: group.channel_indices(order[width:].tolist())
                    for group, order, width in zip(groups, orders, widths, strict=True)
                }
                smaller, _ = cut(model, example_inputs, removed)
                difference = (smaller.eval()(*inputs) - outputs).abs().max()
                if not difference <= _AGREEMENT * outputs.abs().max() + 1e-12:
                    return "a trial cut gave a wrong result (shared weights are sliced unevenly)"
    except Exception as error:
        logger.debug("trial cut of %s failed", groups[0].name, exc_info=error)
        return f"a trial cut failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def _noise_like(example_inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs that excite every channel; integer inputs stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in example_inputs
    ]
