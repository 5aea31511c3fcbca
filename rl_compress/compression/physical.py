"""The physical path: torch-pruning cuts the model itself, for delivery and for loading it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError
from rl_compress.layers.graph import trace

History = list[tuple[str, bool, list[int]]]
"""torch-pruning's record of cuts: ``(layer name, along its outputs, channels removed)``."""


def cut(
    model: nn.Module, example_inputs: Sequence[Tensor], removed: Mapping[str, Sequence[int]]
) -> tuple[nn.Module, History]:
    """Cut channels out of a copy of a model.

    Args:
        model: The uncompressed model on the CPU; left as it is.
        example_inputs: Inputs of one forward pass, batch first.
        removed: For each layer that names a group the output channels to remove.

    Returns:
        The smaller model, and the history that makes the same cuts in an equal model.
    """
    history: History = [
        (name, True, list(channels)) for name, channels in removed.items() if len(channels)
    ]
    smaller = copy.deepcopy(model)
    replay_history(smaller, example_inputs, history)
    return smaller, history


def replay_history(
    model: nn.Module, example_inputs: Sequence[Tensor], history: Sequence[Sequence[Any]]
) -> None:
    """Make the cuts of a history in a model, in place.

    Args:
        model: An uncompressed model on the CPU.
        example_inputs: Inputs of one forward pass, batch first.
        history: Cuts as :func:`cut` returns them, or the same read from JSON.

    Raises:
        UnsupportedLayerError: The history does not fit the model.
    """
    if not history:
        return
    graph = trace(model, example_inputs)
    try:
        for name, _, channels in history:
            layer = model.get_submodule(name)
            if max(channels) >= graph.get_pruner_of_module(layer).get_out_channels(layer):
                raise IndexError(f"{name} has no channel {max(channels)}")
        graph.load_pruning_history([list(step) for step in history])
    except (AttributeError, ValueError, AssertionError, IndexError) as error:
        raise UnsupportedLayerError(
            f"the pruning history does not fit the model ({error}); "
            f"it must be the architecture that was compressed"
        ) from error
