from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.repair.bias_correction import correct_bias
from rl_compress.targets.target import SPLITS, ClassificationTarget


def _target() -> ClassificationTarget:
    torch.manual_seed(0)
    inputs = torch.randn(24, 2, 6, 6) + 0.5
    split = TensorDataset(inputs, torch.zeros(24))
    return ClassificationTarget(nn.Identity, dict.fromkeys(SPLITS, split), batch_size=8)


def _network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.ReLU(inplace=True),  # overwrites the convolution's output
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5),
    ).eval()


def _means(network: nn.Sequential, depth: int, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = network[:depth](inputs)
    return outputs.transpose(0, 1).flatten(1).mean(dim=1)


def _inputs(target: ClassificationTarget) -> Tensor:
    return target.split("calibration").tensors[0]


def _spoil(network: nn.Sequential) -> nn.Sequential:
    spoilt = copy.deepcopy(network)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in spoilt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return spoilt


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_mean_outputs_become_those_of_the_reference(depth: int) -> None:
    target, reference = _target(), _network()
    variant = _spoil(reference)
    assert correct_bias(variant, reference, target, {}, max_batches=3) == 3
    inputs = _inputs(target)
    expected, found = _means(reference, depth, inputs), _means(variant, depth, inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_narrowed_layers_match_the_channels_they_keep() -> None:
    target, reference = _target(), _network()
    kept = torch.tensor([4, 1, 3])
    variant = copy.deepcopy(reference)
    variant[0] = nn.Conv2d(2, 3, 3)
    variant[2] = nn.ConvTranspose2d(3, 4, 2, stride=2)
    correct_bias(variant, reference, target, {"0": kept}, max_batches=3)
    inputs = _inputs(target)
    expected = _means(reference, 1, inputs)[kept]
    torch.testing.assert_close(_means(variant, 1, inputs), expected)
    torch.testing.assert_close(_means(variant, 6, inputs), _means(reference, 6, inputs))


def test_shared_tensors_are_never_written_into() -> None:
    target, reference = _target(), _network()
    variant = _spoil(reference)
    held = dict(variant.named_parameters())
    before = {name: tensor.clone() for name, tensor in held.items()}
    correct_bias(variant, reference, target, {}, max_batches=1)
    for name, parameter in variant.named_parameters():
        assert torch.equal(held[name], before[name]), name
        assert (parameter is held[name]) == name.endswith("weight"), name


def test_an_identical_network_is_left_as_it_is() -> None:
    reference = _network()
    variant = copy.deepcopy(reference)
    correct_bias(variant, reference, _target(), {}, max_batches=3)
    for one, other in zip(variant.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(2, 3, 1, bias=False), _Twice])
def test_layers_without_one_output_or_bias_are_passed_over(make: Callable[[], nn.Module]) -> None:
    reference, variant = make().eval(), make().eval()
    before = copy.deepcopy(variant.state_dict())
    assert correct_bias(variant, reference, _target(), {}, max_batches=1) == 0
    for name, tensor in variant.state_dict().items():
        assert torch.equal(tensor, before[name])
