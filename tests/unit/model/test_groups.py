from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError
from rl_compress.model.axes import named_tensors
from rl_compress.model.groups import LayerGroup, find_groups
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

# (group, kind, units, channels) in forward order; the output layer is checked by itself.
GROUPS = {
    "plain": [("conv1", "conv", 8, 8), ("conv2", "conv", 12, 12), ("fc1", "linear", 20, 20)],
    "residual": [
        ("stem", "conv", 8, 8),
        ("block1.conv1", "conv", 8, 8),
        ("block2.conv1", "conv", 12, 12),
        ("block2.shortcut", "conv", 12, 12),
    ],
    "depthwise": [("depthwise", "depthwise", 8, 8), ("project", "conv", 6, 6)],
    "grouped": [
        ("conv1", "grouped", 3, 12),
        ("conv2", "grouped", 4, 16),
        ("conv3", "conv", 8, 8),
    ],
    "concat": [
        ("stem", "conv", 6, 6),
        ("left", "conv", 4, 4),
        ("right", "conv", 5, 5),
        ("conv", "conv", 6, 6),
    ],
    "squeeze_excite": [
        ("excite", "conv", 8, 8),
        ("squeeze", "conv", 4, 4),
        ("conv2", "conv", 6, 6),
    ],
    "shared": [("twice", "conv", 8, 8), ("down", "conv", 6, 6), ("fc1", "linear", 16, 16)],
}
OUTPUTS = {name: "fc2" if name in ("plain", "shared") else "fc" for name in GROUPS}
BATCHNORM = ("weight", "bias", "running_mean", "running_var")

# For some groups every tensor that becomes narrower, with the axis.
TENSORS = {
    ("plain", "conv1"): {
        ("conv1.weight", 0),
        ("conv1.bias", 0),
        *((f"bn1.{tensor}", 0) for tensor in BATCHNORM),
        ("conv2.weight", 1),
    },
    ("plain", "fc1"): {("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)},
    ("residual", "stem"): {
        ("stem.weight", 0),
        *((f"bn.{tensor}", 0) for tensor in BATCHNORM),
        ("block1.conv1.weight", 1),
        ("block1.conv2.weight", 0),
        *((f"block1.bn2.{tensor}", 0) for tensor in BATCHNORM),
        ("block2.conv1.weight", 1),
        ("block2.shortcut.weight", 1),
    },
    ("depthwise", "depthwise"): {
        ("expand.weight", 0),
        ("expand.bias", 0),
        ("depthwise.weight", 0),
        ("depthwise.bias", 0),
        *((f"bn.{tensor}", 0) for tensor in BATCHNORM),
        ("project.weight", 1),
    },
    ("grouped", "conv2"): {
        ("conv2.weight", 0),
        ("conv2.bias", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("conv3.weight", 1),
    },
    ("concat", "right"): {
        ("right.weight", 0),
        ("right.bias", 0),
        *((f"bn.{tensor}", 0) for tensor in BATCHNORM),
        ("conv.weight", 1),
    },
    ("squeeze_excite", "excite"): {
        ("conv1.weight", 0),
        ("conv1.bias", 0),
        ("squeeze.weight", 1),
        ("excite.weight", 0),
        ("excite.bias", 0),
        ("conv2.weight", 1),
    },
    ("shared", "twice"): {
        ("up.weight", 1),
        ("up.bias", 0),
        ("act.weight", 0),
        ("twice.weight", 0),
        ("twice.weight", 1),
        ("twice.bias", 0),
        ("down.weight", 1),
    },
}


def _groups(name: str) -> dict[str, LayerGroup]:
    groups = find_groups(zoo.make(name), zoo.EXAMPLE, SpaceConfig()).groups
    return {group.name: group for group in groups}


def _prepare(
    model: nn.Module, *shape: int, skip: tuple[str, ...] = ()
) -> tuple[dict[str, LayerGroup], list[str]]:
    config = SpaceConfig(skip=list(skip))
    compressor = Compressor.prepare(model.eval(), (torch.zeros(shape),), config)
    return {group.name: group for group in compressor.groups}, compressor.notes


def _reason(group: LayerGroup) -> str:
    assert not group.prunable
    return group.reason or ""


@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_the_zoo_in_forward_order(name: str) -> None:
    compressor = Compressor.prepare(zoo.make(name), zoo.EXAMPLE, SpaceConfig())
    found = [(g.name, g.kind, g.num_units, g.channels) for g in compressor.groups if g.prunable]
    assert found == GROUPS[name]
    assert compressor.space.sites == [g[0] for g in GROUPS[name]]


@pytest.mark.parametrize("name", GROUPS)
def test_the_output_layer_is_not_pruned(name: str) -> None:
    compressor = Compressor.prepare(zoo.make(name), zoo.EXAMPLE, SpaceConfig())
    last = compressor.groups[-1]
    assert last.name == OUTPUTS[name]
    assert _reason(last) == "its channels are the model's output"


@pytest.mark.parametrize("name", GROUPS)
def test_sound_networks_need_no_notes(name: str) -> None:
    assert Compressor.prepare(zoo.make(name), zoo.EXAMPLE, SpaceConfig()).notes == []


@pytest.mark.parametrize(("name", "group"), TENSORS, ids="-".join)
def test_tensors_of_a_group(name: str, group: str) -> None:
    axes = _groups(name)[group].axes
    assert {(axis.tensor, axis.axis) for axis in axes} == TENSORS[name, group]


@pytest.mark.parametrize("name", GROUPS)
def test_positions_are_distinct_and_on_their_tensors(name: str) -> None:
    tensors = named_tensors(zoo.make(name))
    for group in _groups(name).values():
        for axis in group.axes:
            assert len(axis.positions) == group.num_units
            flat = axis.positions.ravel()
            assert len(set(flat.tolist())) == flat.size
            assert 0 <= flat.min() <= flat.max() < tensors[axis.tensor].shape[axis.axis]


def _positions(name: str, group: str, tensor: str, axis: int) -> list[list[int]]:
    return next(
        found.positions.tolist()
        for found in _groups(name)[group].axes
        if (found.tensor, found.axis) == (tensor, axis)
    )


@pytest.mark.parametrize(
    ("name", "group", "tensor", "axis", "expected"),
    [
        pytest.param(
            "plain",
            "conv2",
            "fc1.weight",
            1,
            [list(range(16 * unit, 16 * unit + 16)) for unit in range(12)],
            id="flattened",
        ),
        pytest.param(
            "concat", "right", "conv.weight", 1, [[unit] for unit in range(4, 9)], id="concatenated"
        ),
        pytest.param(
            "grouped",
            "conv1",
            "conv1.weight",
            0,
            [[unit, unit + 3, unit + 6, unit + 9] for unit in range(3)],
            id="a-channel-of-each-part",
        ),
        pytest.param(
            "grouped", "conv1", "conv2.weight", 1, [[0], [1], [2]], id="input-of-a-grouped-layer"
        ),
    ],
)
def test_where_units_lie(
    name: str, group: str, tensor: str, axis: int, expected: list[list[int]]
) -> None:
    assert _positions(name, group, tensor, axis) == expected


@pytest.mark.parametrize(
    ("pattern", "skipped"),
    [
        ("block1.conv1", {"block1.conv1", "stem"}),
        ("block2.*", {"stem", "block2.conv1", "block2.shortcut"}),
        ("fc", {"block2.shortcut", "fc"}),
        ("nothing", set()),
    ],
)
def test_skipped_layers_leave_their_groups_as_they_are(pattern: str, skipped: set[str]) -> None:
    config = SpaceConfig(skip=[pattern])
    groups = find_groups(zoo.make("residual"), zoo.EXAMPLE, config).groups
    found = {g.name for g in groups if g.reason and g.reason.endswith("is listed in space.skip")}
    assert found == skipped


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.third, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.third(x[:, -1])))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.third, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        x, _ = self.attention(x, x, x)
        return self.last(torch.relu(self.third(x.mean(1))))


@pytest.mark.parametrize(
    ("model", "layer", "group", "reason"),
    [
        pytest.param(
            Recurrent, "lstm (LSTM)", "second", "not supported: a recurrent layer", id="LSTM"
        ),
        pytest.param(
            Attention,
            "attention (MultiheadAttention)",
            "second",
            "not supported: layer attention of kind MultiheadAttention",
            id="MultiheadAttention",
        ),
    ],
)
def test_layers_of_unsupported_kinds_stay_and_the_rest_is_pruned(
    model: type[nn.Module], layer: str, group: str, reason: str
) -> None:
    groups, notes = _prepare(model(), 1, 6, 8)
    assert _reason(groups[group]).startswith(reason)
    assert groups["first"].prunable
    assert groups["third"].prunable
    assert f"layers of unsupported kinds stay as they are: {layer}" in notes


class HardCoded(nn.Module):
    """Reshapes to a number of features that is written down in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(128, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.relu(self.fc1(x.view(-1, 128))))


def test_a_hard_coded_reshape_is_found_by_a_trial_cut() -> None:
    groups, _ = _prepare(HardCoded(), 1, 1, 4, 4)
    assert "a trial cut failed (RuntimeError: shape '[-1, 128]'" in _reason(groups["conv2"])
    assert groups["conv1"].prunable
    assert groups["fc1"].prunable


class Shuffled(nn.Module):
    """Mixes the halves of its channels, so that a unit's place depends on the width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def test_the_halves_of_a_channel_shuffle_lose_the_same() -> None:
    groups, _ = _prepare(Shuffled(), 1, 1, 4, 4)
    assert groups["conv1"].axes[0].positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    read = next(axis for axis in groups["conv1"].axes if axis.tensor == "conv2.weight")
    assert read.positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups["conv2"].prunable


class Positioned(nn.Module):
    """Weighs its channels by their number, which is another one once they are fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.second(x * torch.arange(x.shape[-1]))


def test_channels_that_count_by_their_place_are_found_by_a_trial_cut() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Positioned())
    groups, _ = _prepare(model, 1, 8)
    assert "a trial cut gave a wrong result" in _reason(groups["2.first"])
    assert groups["0"].prunable


class PixelShuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.up, self.fc = nn.PixelShuffle(2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv2(self.up(self.conv1(x)))).mean((2, 3)))


def test_what_a_pixel_shuffle_makes_a_channel_of_goes_together() -> None:
    groups, _ = _prepare(PixelShuffled(), 1, 1, 4, 4)
    positions = groups["conv1"].axes[0].positions
    assert positions.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert groups["conv2"].prunable


class Halves(nn.Module):
    """Gates one half of its channels with the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv1(x).chunk(2, 1)
        return self.fc(torch.relu(self.conv2(a * torch.sigmoid(b))).mean((2, 3)))


def test_halves_that_gate_each_other_lose_the_same() -> None:
    groups, _ = _prepare(Halves(), 1, 1, 4, 4)
    assert groups["conv1"].axes[0].positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


class OnTheInput(nn.Module):
    """Adds a layer's output to the model's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(x + self.first(x))))


def test_channels_added_to_the_input_stay() -> None:
    groups, _ = _prepare(OnTheInput(), 1, 8)
    assert _reason(groups["first"]) == "its channels meet what stays as it is (add)"
    assert groups["second"].prunable


def _tied() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 12), nn.Linear(12, 4)
    )
    model[2].weight = model[0].weight
    return model


def test_tied_weights_are_not_pruned() -> None:
    groups, notes = _prepare(_tied(), 1, 8)
    assert _reason(groups["0"]) == "0.weight shares its tensor with 2.weight (tied)"
    assert _reason(groups["2"]) == "2.weight shares its tensor with 0.weight (tied)"
    assert groups["4"].prunable
    assert "0.weight shares its tensor with 2.weight" in notes


def test_frozen_layers_are_pruned_and_noted() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    groups, notes = _prepare(model, 1, 8)
    assert groups["0"].prunable
    assert len(notes) == 1
    assert notes[0].startswith("2 frozen tensor(s) (0.weight, 0.bias) are compressed")
    assert not model[0].weight.requires_grad


class WithAuxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.auxiliary, self.last = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_layers_that_are_not_reached_are_noted() -> None:
    groups, notes = _prepare(WithAuxiliary(), 1, 8)
    assert [name for name, group in groups.items() if group.prunable] == ["first"]
    assert notes == [
        "1 layer(s) (auxiliary) are not called as modules in the forward pass and stay as they are"
    ]


def test_a_bare_parameter_is_narrowed_with_its_group() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 4)
            self.scale = nn.Parameter(torch.rand(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)) * self.scale)

    groups, _ = _prepare(Scaled(), 1, 8)
    assert ("scale", 0) in {(axis.tensor, axis.axis) for axis in groups["first"].axes}


def test_a_layer_norm_over_several_axes_is_narrowed_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.LayerNorm([8, 4, 4]),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 2, 1),
    )
    groups, _ = _prepare(model, 1, 1, 4, 4)
    assert ("1.weight", 0) in {(axis.tensor, axis.axis) for axis in groups["0"].axes}
    assert groups["0"].prunable
    assert groups["2"].prunable


def test_a_grouped_transposed_convolution_is_not_supported() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(1, 8, 2), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Conv2d(6, 2, 1)
    )
    with pytest.raises(UnsupportedLayerError, match="grouped transposed convolution"):
        _prepare(model, 1, 1, 4, 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(nn.Sequential(nn.Linear(8, 4)), "0: its channels are the model's output"),
        pytest.param(nn.Sequential(nn.ReLU()), "no layers found"),
        pytest.param(
            nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 4)), "0: it has a single unit"
        ),
    ],
    ids=["one-layer", "no-layer", "one-unit"],
)
def test_a_model_without_prunable_groups_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=f"no prunable group .*{reason}"):
        _prepare(model, 1, 8)


def test_skipping_everything_is_refused() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"is listed in space\.skip"):
        Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig(skip=["*"]))


def test_a_forward_pass_that_fails_is_refused_with_its_error() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"forward pass failed .*RuntimeError"):
        Compressor.prepare(zoo.make("plain"), (torch.zeros(1, 3, 8, 8),), SpaceConfig())


def test_integer_inputs_are_traced() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    inputs = (torch.zeros(1, 5, dtype=torch.long),)
    compressor = Compressor.prepare(model.eval(), inputs, SpaceConfig())
    assert compressor.space.sites == ["0", "1"]
    narrowed = compressor.network.variant(np.array([5, 3]))
    assert narrowed(torch.ones(2, 5, dtype=torch.long)).shape == (2, 5, 4)


class Standardised(nn.Conv2d):
    """Scales its weight before it is used, as networks without normalisation do."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, len(self.weight), -1)
        weight = nn.functional.batch_norm(rows, None, None, training=True, momentum=0.0)
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_a_weight_that_is_standardised_first_makes_channels_and_reads_them() -> None:
    model = nn.Sequential(
        Standardised(1, 8, 3), nn.ReLU(), Standardised(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)
    )
    groups, _ = _prepare(model, 1, 1, 8, 8)
    assert {name for name, group in groups.items() if group.prunable} == {"0", "2"}
    assert ("2.weight", 1) in {(axis.tensor, axis.axis) for axis in groups["0"].axes}
