from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.model.kept_state import own_buffers
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target


class _Counting(nn.Module):
    """Writes something in every forward pass, and multiplies by what it keeps."""

    def __init__(self, write: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.table: Tensor | None = None
        self._write = write

    def forward(self, x: Tensor) -> Tensor:
        self._write(self)
        return self.layer(x) * (1.0 if self.table is None else self.table)


def _assign(model: nn.Module) -> None:
    model.calls = model.calls + 1


def _add(model: nn.Module) -> None:
    model.calls += 1


def _tabulate(model: nn.Module) -> None:
    if model.table is None:
        model.table = torch.ones(2)


class _Inferring(Target):
    """A user's score in inference mode, which leaves the model in training mode too."""

    def build(self) -> nn.Module:
        return _Counting(_assign)

    def split(self, name: str) -> Dataset:
        return TensorDataset(torch.ones(3, 2), torch.zeros(3))

    def score(self, model: nn.Module, split: str) -> float:
        with torch.inference_mode():
            for inputs, _ in self.batches(split):
                model(inputs)
        model.train()
        return 1.0


@pytest.mark.parametrize("write", [_assign, _add, _tabulate])
def test_a_scored_model_is_as_before_and_can_be_trained(
    write: Callable[[nn.Module], None],
) -> None:
    model = _Counting(write).eval()
    calls, before = model.calls, model.state_dict()["calls"].clone()
    assert scored(_Inferring(), model, "search") == 1.0
    assert model.calls is calls
    assert torch.equal(calls, before)
    assert not model.training
    model(torch.ones(3, 2)).sum().backward()
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})


def test_buffers_that_are_one_stay_one() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].running_mean = model[0].running_mean
    shared = model[0].running_mean
    own_buffers(model)
    assert model[0].running_mean is model[1].running_mean
    model[0].running_mean += 1
    assert not shared.any()
