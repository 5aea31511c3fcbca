"""Another library's cuts, which share nothing with ours, give the same networks."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch_pruning as tp
import zoo
from torch import Tensor, nn

from rl_compress.space.search_space import Amounts
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor


def _cut_by_torch_pruning(model: nn.Module, compressor: Compressor, widths: Amounts) -> nn.Module:
    smaller = copy.deepcopy(model)
    graph = tp.DependencyGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph.build_dependency(smaller, example_inputs=zoo.EXAMPLE, verbose=False)
    for group, order, width in zip(compressor.parents, compressor.orders, widths, strict=True):
        layer = smaller.get_submodule(group.name)
        axis = next(axis for axis in group.axes if axis.tensor == f"{group.name}.weight")
        removed = sorted(axis.positions[order[width:]].reshape(-1).tolist())
        if removed:
            prune = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, prune, removed).prune()
    return smaller.eval()


# torch-pruning keeps the channels of a LayerNorm in the order of a set.
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name != "shared"])
def test_both_cut_the_same(name: str) -> None:
    model = zoo.make(name)
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    rng = np.random.default_rng(0)
    inputs: Tensor = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        levels = rng.integers(compressor.space.full + 1)
        other = _cut_by_torch_pruning(model, compressor, compressor.space.amounts(levels))
        ours = compressor.cut(model, levels)
        assert {n: t.shape for n, t in ours.state_dict().items()} == {
            n: t.shape for n, t in other.state_dict().items()
        }
        with torch.no_grad():
            torch.testing.assert_close(ours(inputs), other(inputs))
