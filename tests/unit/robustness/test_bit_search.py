from __future__ import annotations

import math

import pytest
import torch
import zoo
from torch import Tensor, nn

from rl_compress.robustness.bit_flips import StoredWeights
from rl_compress.robustness.bit_search import (
    BitFlip,
    Loss,
    loss_and_gradients,
    rank_flips,
    search_bits,
)
from rl_compress.robustness.replica import Replica

INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))


def _linear(scale: float = 0.2) -> nn.Sequential:
    torch.manual_seed(3)
    layer = nn.Linear(5, 3)
    nn.init.uniform_(layer.weight, -scale, scale)
    return nn.Sequential(layer)


def _linear_loss(model: nn.Module) -> Tensor:
    return (model(INPUTS) * torch.tensor([1.0, -2.0, 0.5])).mean()


def _stored(replica: Replica, form: str) -> dict[str, StoredWeights]:
    make = StoredWeights.float32 if form == "float32" else _eight_bits
    stored = {name: make(weight) for name, weight in replica.weights().items()}
    replica.put_all(stored)
    return stored


def _eight_bits(weight: Tensor) -> StoredWeights:
    return StoredWeights.integers(weight, 8)


def _brute_force(stored: StoredWeights, replica: Replica, name: str, loss: Loss) -> float:
    """Return the largest loss that any single flip leads to."""
    losses = []
    for index in range(stored.codes.numel()):
        for bit in range(stored.bits):
            replica.put(name, stored.flipped(index, bit).values())
            with torch.no_grad():
                value = float(loss(replica.model))
            losses.append(math.inf if math.isnan(value) else value)
    replica.put(name, stored.values())
    return max(losses)


@pytest.mark.parametrize("form", ["float32", "integer"])
def test_on_a_linear_model_the_search_finds_the_best_single_flip(form: str) -> None:
    replica = Replica(_linear())
    stored = _stored(replica, form)
    (found,) = search_bits(replica, stored, _linear_loss, 1)
    best = _brute_force(stored["0.weight"], replica, "0.weight", _linear_loss)
    assert found.loss == best
    replica.put("0.weight", stored["0.weight"].flipped(found.flat_index, found.bit).values())
    assert float(_linear_loss(replica.model).detach()) == best


def test_the_gradient_alone_ranks_the_flips_of_a_linear_model() -> None:
    replica = Replica(_linear())
    stored = _stored(replica, "integer")["0.weight"]
    weight = stored.values().requires_grad_()
    loss = (INPUTS @ weight.T * torch.tensor([1.0, -2.0, 0.5])).mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    ((index, bit),) = rank_flips(stored, gradient, 1, set())
    replica.put("0.weight", stored.flipped(index, bit).values())
    reached = float(_linear_loss(replica.model).detach())
    assert reached == _brute_force(stored, replica, "0.weight", _linear_loss)


def test_ranking_leaves_out_flips_that_would_help() -> None:
    stored = StoredWeights.integers(torch.tensor([[0.5, 1.0]]), 3)
    # Codes 2 (of 1.5) and 3: 010 and 011. Only upward changes of the first weight hurt.
    ranked = rank_flips(stored, torch.tensor([[1.0, 0.0]]), 10, set())
    assert ranked == [(0, 0)]
    assert rank_flips(stored, torch.tensor([[1.0, 0.0]]), 10, {(0, 0)}) == []


@pytest.mark.parametrize("form", ["float32", "integer"])
def test_the_loss_rises_flip_by_flip_and_the_weights_come_back(form: str) -> None:
    torch.manual_seed(0)
    model = zoo.make("plain")
    images = torch.randn(12, 1, 8, 8)
    labels = torch.randint(10, (12,))

    def loss(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    replica = Replica(model)
    stored = _stored(replica, form)
    before = {name: tensor.clone() for name, tensor in replica.model.state_dict().items()}
    last = float(loss(replica.model).detach())
    flips: list[BitFlip] = []
    for flip in search_bits(replica, stored, loss, 4):
        with torch.no_grad():
            now = float(loss(replica.model))
        assert flip.loss == (math.inf if math.isnan(now) else now)
        assert flip.loss > last
        last = flip.loss
        weights = replica.model.get_parameter(flip.tensor).flatten()
        assert float(weights[flip.flat_index]) == flip.after
        flips.append(flip)
    assert len({(f.tensor, f.flat_index, f.bit) for f in flips}) == len(flips) >= 1
    if form == "integer":
        assert len(flips) == 4
    else:
        assert flips[0].bit == 30
    for name, tensor in replica.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_search_over_all_layers_takes_the_worst_of_them() -> None:
    model = zoo.make("plain")
    images = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def loss(network: nn.Module) -> Tensor:
        return network(images)[:, 0].logsumexp(0)

    replica = Replica(model)
    stored = _stored(replica, "integer")
    alone = [next(search_bits(replica, {n: w}, loss, 1)).loss for n, w in stored.items()]
    assert next(search_bits(replica, stored, loss, 1)).loss == max(alone)


def test_a_loss_that_cannot_rise_ends_the_search() -> None:
    replica = Replica(_linear())
    stored = _stored(replica, "integer")
    flat: Loss = lambda model: 0.0 * model(INPUTS).sum()  # noqa: E731
    assert list(search_bits(replica, stored, flat, 3)) == []


def test_flips_that_only_promise_to_raise_the_loss_are_not_made() -> None:
    replica = Replica(nn.Linear(1, 1, bias=False))
    replica.put("weight", torch.tensor([[1.0]]))
    stored = {"weight": StoredWeights.integers(torch.tensor([[1.0]]), 2)}

    def peak(model: nn.Module) -> Tensor:
        return -((model(torch.ones(1, 1)) - 0.9) ** 2).sum()

    # Downhill towards code 0, by the gradient, but the summit is nearer to code 1.
    _, gradients = loss_and_gradients(replica, stored, peak)
    assert rank_flips(stored["weight"], gradients["weight"], 3, set())
    assert list(search_bits(replica, stored, peak, 1)) == []


def test_a_broken_model_ends_the_search() -> None:
    replica = Replica(_linear(scale=1.9))
    replica.put("0.weight", torch.full((3, 5), 1.5))
    stored = _stored(replica, "float32")

    def loss(model: nn.Module) -> Tensor:
        return model(INPUTS).softmax(-1)[:, 0].sum()

    # The top exponent bit of 1.5 makes a NaN, and with it the loss.
    (flip,) = search_bits(replica, stored, loss, 5)
    assert (flip.bit, flip.loss) == (30, math.inf)
    assert math.isnan(flip.after)
