"""Our one door to torch-pruning's dependency graph (Fang et al., "DepGraph", CVPR 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch_pruning as tp
from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError


class _LayerNormPruner(tp.function.LayernormPruner):
    """torch-pruning's own, which keeps the channels in the arbitrary order of a set."""

    def _prune_parameter_and_grad(
        self, weight: nn.Parameter, keep_idxs: Sequence[int], pruning_dim: int
    ) -> nn.Parameter:
        kept = sorted(int(index) for index in keep_idxs)
        return super()._prune_parameter_and_grad(weight, kept, pruning_dim)

    def prune_out_channels(self, layer: nn.LayerNorm, idxs: Sequence[int]) -> nn.LayerNorm:
        return super().prune_out_channels(layer, idxs)

    prune_in_channels = prune_out_channels


@contextmanager
def _all_trainable(model: nn.Module) -> Iterator[None]:
    """Let gradients flow everywhere: the graph is read off autograd, which skips what is frozen."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def trace(model: nn.Module, example_inputs: Sequence[Tensor]) -> tp.DependencyGraph:
    """Trace a model into a dependency graph.

    Args:
        model: Model on the CPU, in evaluation mode; frozen parameters are traced too.
        example_inputs: Inputs of one forward pass, batch first.

    Raises:
        UnsupportedLayerError: The forward pass or the tracing failed.
    """
    try:
        # First without torch-pruning, which would hide the model's own error behind another.
        with torch.no_grad():
            outputs = model(*example_inputs)
    except Exception as error:
        raise UnsupportedLayerError(
            f"target: the model's forward pass failed on example_inputs() "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    if not isinstance(outputs, Tensor):
        raise UnsupportedLayerError(
            f"target: the model must return a tensor, but returned {type(outputs).__name__}; "
            f"wrap it in a module that returns the logits alone"
        )
    graph = tp.DependencyGraph()
    graph.register_customized_layer(nn.LayerNorm, _LayerNormPruner())
    with _all_trainable(model), warnings.catch_warnings():
        # torch-pruning warns of bare parameters; discovery reports them in its own words.
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(model, example_inputs=tuple(example_inputs), verbose=False)
        except Exception as error:
            raise UnsupportedLayerError(
                f"target: the model's forward pass could not be traced on example_inputs() "
                f"({type(error).__name__}: {error}); it must run on one batch of plain tensors"
            ) from error
    return graph
