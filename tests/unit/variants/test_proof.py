"""What the proof finds when groups are not where they are said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError
from rl_compress.model.axes import Axis
from rl_compress.model.groups import FoundGroups, find_groups
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants import proof
from rl_compress.variants.compressor import Compressor
from rl_compress.variants.proof import find_proved_groups


def _reasons(model: nn.Module, *shape: int) -> dict[str, str | None]:
    found = find_proved_groups(model.eval(), (torch.zeros(shape),), SpaceConfig())
    return {group.name: group.reason for group in found.groups}


@pytest.mark.parametrize("tensor", ["conv2.weight", "bn1.running_var"])
def test_units_that_lie_elsewhere_are_found(tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two units are exchanged on one tensor alone."""

    def mixed_up(*args: object) -> FoundGroups:
        found = find_groups(*args)  # type: ignore[arg-type]
        group = found.groups[0]
        order = np.array([1, 0, *range(2, group.num_units)])
        axes = tuple(
            Axis(a.tensor, a.axis, a.positions[order]) if a.tensor == tensor else a
            for a in group.axes
        )
        found.groups[0] = replace(group, axes=axes)
        return found

    monkeypatch.setattr(proof, "find_groups", mixed_up)
    found = find_proved_groups(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig())
    reasons = {group.name: group.reason for group in found.groups}
    assert "a trial cut gave a wrong result" in (reasons["conv1"] or "")
    assert reasons["conv2"] is None
    assert reasons["fc1"] is None


def test_a_tensor_that_was_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_one(*args: object) -> FoundGroups:
        found = find_groups(*args)  # type: ignore[arg-type]
        group = found.groups[1]
        axes = tuple(axis for axis in group.axes if axis.tensor != "bn2.weight")
        found.groups[1] = replace(group, axes=axes)
        return found

    monkeypatch.setattr(proof, "find_groups", without_one)
    found = find_proved_groups(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig())
    reasons = {group.name: group.reason for group in found.groups}
    assert "a trial cut failed" in (reasons["conv2"] or "")
    assert reasons["conv1"] is None


class DeadGate(nn.Module):
    """A branch whose scale is zero, as that of an untrained residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        weighed = self.b(x) * torch.arange(x.shape[-1]) * self.scale
        return self.out(x + weighed)


def test_a_scale_of_zero_hides_nothing() -> None:
    reasons = _reasons(DeadGate(), 1, 6).values()
    assert any("a trial cut gave a wrong result" in (reason or "") for reason in reasons)


class Steep(nn.Module):
    """Gates that turn rounding errors of single precision into other results."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 8)
        self.counted, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.counted(self.b(x * torch.sigmoid(1e6 * self.gate(x))))
        return self.out(x * torch.arange(x.shape[-1]))


def test_rounding_errors_that_grow_are_no_wrong_results() -> None:
    reasons = _reasons(Steep(), 64, 6)
    assert reasons["a"] is None
    assert reasons["b"] is None
    assert "a trial cut gave a wrong result" in (reasons["counted"] or "")


class PickyInputs(nn.Module):
    """Refuses what is no picture: values beyond 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > 1:
            raise ValueError("not a picture")
        return self.last(torch.relu(self.first(x)))


def test_a_model_that_refuses_noise_is_proved_on_its_own_inputs() -> None:
    assert _reasons(PickyInputs(), 1, 4)["first"] is None


class Moody(nn.Module):
    """Raises in every forward pass but the first, which counts as an own error of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("not in the mood")
        return self.last(torch.relu(self.first(x)))


def test_no_error_of_the_model_leaves_the_preparation() -> None:
    with pytest.raises(UnsupportedLayerError, match="not in the mood"):
        Compressor.prepare(Moody().eval(), (torch.zeros(1, 4),), SpaceConfig())


def test_the_model_is_left_as_it_is() -> None:
    model = zoo.make("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_proved_groups(model, zoo.EXAMPLE, SpaceConfig())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


class Rigid(nn.Module):
    """Half of its channels' way is written down as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 8)
        self.free, self.back = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).reshape(-1, 2, 3).flip(1).reshape(-1, 6)
        return inputs + self.back(self.free(inputs + self.second(hidden)).relu())


def test_many_blocks_that_fail_alike_are_not_tried_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials: list[int] = []
    hold = proof._Trials._try

    def counted(self: proof._Trials, indices: list[int], *others: object) -> object:
        trials.append(len(indices))
        return hold(self, indices, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(proof._Trials, "_try", counted)
    monkeypatch.setattr(proof, "_PATIENCE", 3)
    model = nn.Sequential(*[Rigid() for _ in range(12)])
    reasons = _reasons(model, 1, 8)
    assert all(reasons[f"{block}.first"] for block in range(12))
    assert all(reasons[f"{block}.free"] is None for block in range(12))
    assert len(trials) < 20


class Borrower(nn.Module):
    """What one layer makes is given as many channels as another's output has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.reduce = nn.Conv2d(16, 16, 1)
        self.free, self.back = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        reduced = self.reduce(hidden).reshape(len(hidden), hidden.shape[1], -1)
        return self.back(self.free(reduced[..., None])).flatten(1)


def test_groups_that_must_be_as_wide_as_each_other_are_left_alone() -> None:
    reasons = _reasons(Borrower(), 1, 3, 4, 4)
    assert reasons["reduce"]
    assert reasons["free"] is None
