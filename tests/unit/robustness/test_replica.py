from __future__ import annotations

import torch
import zoo
from torch import Tensor, nn

from rl_compress.robustness.bit_flips import StoredWeights
from rl_compress.robustness.replica import Replica


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        self.outer = nn.Linear(4, 4, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


def test_weights_are_those_with_two_axes() -> None:
    assert list(Replica(zoo.make("plain")).weights()) == [
        "conv1.weight",
        "conv2.weight",
        "fc1.weight",
        "fc2.weight",
    ]


def test_exchanging_a_weight_writes_into_no_tensor() -> None:
    model = zoo.make("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replica = Replica(model)
    old = replica.model.get_parameter("fc2.weight")
    kept = old.detach().clone()
    replica.put("fc2.weight", torch.zeros(10, 20))
    assert not replica.model.get_parameter("fc2.weight").any()
    assert torch.equal(old, kept)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_tied_weight_is_exchanged_in_all_its_places() -> None:
    replica = Replica(_Tied())
    assert list(replica.weights()) == ["inner.weight"]
    replica.put("inner.weight", 2 * torch.eye(4))
    assert torch.equal(replica.model(torch.eye(4)), 4 * torch.eye(4))


def test_values_are_cast_to_the_weights_type() -> None:
    replica = Replica(nn.Linear(3, 2).double())
    replica.put_all({"weight": StoredWeights.float32(torch.ones(2, 3))})
    assert replica.model.weight.dtype == torch.float64


def test_output_channels_of_a_transposed_convolution_are_along_axis_one() -> None:
    replica = Replica(zoo.make("shared"))
    assert replica.output_axis("up.weight") == 1
    assert replica.output_axis("down.weight") == 0
