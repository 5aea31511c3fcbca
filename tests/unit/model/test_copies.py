"""Copies of modules are those of deepcopy, and models are made for a file's values."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rl_compress.model.copies import copied
from rl_compress.model.undrawn import made_undrawn


class Knotted(nn.Module):
    """Holds itself, its parts in lists and hooks, and one part twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = (nn.Linear(4, 4),) * 2
        self.parts, self.owner, self.shape = [self.first], (self, None), (1, 2)
        self.norm = parametrizations.weight_norm(nn.Linear(4, 4))
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.first.register_forward_hook(self.count)
        self.traced = torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4))

    def count(self, *_: object) -> None:
        self.seen = self.seen + 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.traced(self.norm(self.parts[0](x)))
        return self.again(nn.functional.relu(x))


_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "knotted": Knotted,
    "lstm": lambda: nn.Sequential(nn.LSTM(4, 3, bidirectional=True), zoo.make("plain")),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 4),
}


@pytest.mark.parametrize("name", _MAKERS)
def test_a_copy_is_that_of_deepcopy(name: str) -> None:
    model = _MAKERS[name]().eval()
    one, other = copied(model), copy.deepcopy(model)
    assert [(n, type(m)) for n, m in one.named_modules()] == [
        (n, type(m)) for n, m in other.named_modules()
    ]
    for mine, theirs in zip(one.modules(), other.modules(), strict=True):
        assert list(vars(mine)) == list(vars(theirs))
    state, before = one.state_dict(), model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    assert not {t.data_ptr() for t in state.values()} & {t.data_ptr() for t in before.values()}
    if name == "lstm":
        with torch.no_grad():
            one[0].weight_ih_l0.zero_()
        x = torch.ones(2, 1, 4)
        assert not torch.equal(one[0](x)[0], model[0](x)[0])
    if name == "knotted":
        assert one.owner[0] is one
        assert one.parts[0] is one.first is one.again
        with torch.no_grad():
            assert torch.equal(one(torch.ones(1, 4)), model(torch.ones(1, 4)))
            one(torch.ones(1, 4))
        assert (one.seen, model.seen) == (4, 2)


class Seeded(nn.Module):
    """A table that is in no file is drawn after the weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.table = nn.Linear(4, 4), torch.randn(4)


class Looking(nn.Module):
    """What is in no file depends on the weights drawn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.scale = self.layer.weight.abs().max().detach()


class Unsaved(nn.Module):
    """Draws a buffer that is in no file."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("table", torch.empty(4).uniform_(), persistent=False)


@pytest.mark.parametrize("kind", [Seeded, Looking, Unsaved])
def test_random_numbers_that_a_model_needs_are_drawn(kind: type[nn.Module]) -> None:
    expected = kind()
    found = made_undrawn(kind, expected.state_dict())
    for name in ("table", "scale"):
        if hasattr(expected, name):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_weights_that_a_file_replaces_are_not_drawn() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    model = made_undrawn(lambda: nn.Sequential(nn.Linear(4, 4)), ["0.weight", "0.bias"])
    assert model[0].weight.shape == (4, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
