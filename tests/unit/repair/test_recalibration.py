from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.repair.recalibration import has_batchnorm, recalibrate_batchnorm
from rl_compress.targets.target import SPLITS, ClassificationTarget


def _target(inputs: Tensor, batch_size: int = 8) -> ClassificationTarget:
    split = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return ClassificationTarget(nn.Identity, dict.fromkeys(SPLITS, split), batch_size=batch_size)


def _images(count: int) -> Tensor:
    torch.manual_seed(0)
    # The mean drifts along the samples, so that averaging batch by batch would be wrong.
    return torch.randn(count, 3, 5, 5) * 2.0 + torch.linspace(-4, 4, count)[:, None, None, None]


def _network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).eval()


@pytest.mark.parametrize("count", [16, 20, 17], ids=["even", "uneven", "lone sample at the end"])
def test_a_single_layer_gets_the_moments_of_all_samples(count: int) -> None:
    inputs = _images(count)
    layer = nn.BatchNorm2d(3).eval()
    assert recalibrate_batchnorm(layer, _target(inputs), max_batches=10) == 1
    seen = inputs[:16] if count == 17 else inputs
    torch.testing.assert_close(layer.running_mean, seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(layer.running_var, seen.var(dim=(0, 2, 3)))


def test_no_more_batches_are_read_than_allowed() -> None:
    inputs = _images(40)
    layer = nn.BatchNorm2d(3).eval()
    recalibrate_batchnorm(layer, _target(inputs), max_batches=2)
    torch.testing.assert_close(layer.running_mean, inputs[:16].mean(dim=(0, 2, 3)))


def test_in_a_network_outputs_are_normalised_again() -> None:
    inputs = _images(32)
    network = _network()
    assert recalibrate_batchnorm(network, _target(inputs, batch_size=32), max_batches=1) == 2
    with torch.no_grad():
        outputs = network(inputs)
    torch.testing.assert_close(outputs.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-2, rtol=0)
    torch.testing.assert_close(outputs.var(dim=(0, 2, 3)), torch.ones(5), atol=1e-2, rtol=0)


def test_shared_tensors_are_never_written_into() -> None:
    network = _network()
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {name: tensor.clone() for name, tensor in held.items()}
    recalibrate_batchnorm(network, _target(_images(32)), max_batches=4)
    for name, tensor in held.items():
        assert torch.equal(tensor, before[name]), name
    for name, tensor in network.state_dict(keep_vars=True).items():
        is_statistic = name.endswith(("running_mean", "running_var"))
        assert (tensor is not held[name]) == is_statistic, name


def test_it_is_deterministic_and_leaves_mode_and_momentum() -> None:
    network = _network()
    other = copy.deepcopy(network)
    recalibrate_batchnorm(network, _target(_images(32)), max_batches=4)
    recalibrate_batchnorm(other, _target(_images(32)), max_batches=4)
    for one, same in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(one, same)
    assert not any(module.training for module in network.modules())
    assert network[1].momentum == 0.1


def test_dropout_stays_off() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).eval()
    inputs = _images(16)
    recalibrate_batchnorm(network, _target(inputs), max_batches=2)
    torch.testing.assert_close(network[1].running_mean, inputs.mean(dim=(0, 2, 3)))


class _Odd(nn.Module):
    """A BatchNorm that is used twice, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.BatchNorm1d(2, affine=False)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(x[:, :2]) + self.twice(input=x[:, 2:])


def test_a_layer_used_twice_sees_both_and_an_unused_one_keeps_what_it_had() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(24, 4) + torch.tensor([0.0, 1.0, 2.0, 3.0])
    network = _Odd().eval()
    network.unused.running_mean.fill_(7.0)
    assert recalibrate_batchnorm(network, _target(inputs), max_batches=3) == 1
    seen = torch.cat([inputs[:, :2], inputs[:, 2:]])
    torch.testing.assert_close(network.twice.running_mean, seen.mean(dim=0))
    torch.testing.assert_close(network.twice.running_var, seen.var(dim=0))
    assert torch.equal(network.unused.running_mean, torch.full((2,), 7.0))


def test_statistics_survive_an_error() -> None:
    class Failing(ClassificationTarget):
        def batches(self, split: str, **_options: object) -> Iterator[tuple[Tensor, Tensor]]:
            raise RuntimeError("no data")
            yield

    network = _network()
    with pytest.raises(RuntimeError, match="no data"):
        recalibrate_batchnorm(network, _failing(Failing), max_batches=1)
    assert torch.equal(network[1].running_var, torch.ones(4))
    assert not network[1].training


def _failing(kind: type[ClassificationTarget]) -> ClassificationTarget:
    split = TensorDataset(torch.zeros(1, 3, 5, 5), torch.zeros(1))
    return kind(nn.Identity, dict.fromkeys(SPLITS, split))


def test_only_running_statistics_count() -> None:
    assert has_batchnorm(_network())
    assert not has_batchnorm(nn.Sequential(nn.Conv2d(1, 1, 1), nn.LayerNorm(3)))
    assert not has_batchnorm(nn.BatchNorm2d(3, track_running_stats=False))
