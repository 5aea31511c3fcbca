from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.repair import reconstruction
from rl_compress.repair.reconstruction import _input_rows, reconstruct
from rl_compress.targets.target import SPLITS, ClassificationTarget


def _target(*shape: int, count: int = 64) -> ClassificationTarget:
    torch.manual_seed(0)
    split = TensorDataset(torch.randn(count, *shape) + 0.3, torch.zeros(count))
    return ClassificationTarget(nn.Identity, dict.fromkeys(SPLITS, split), batch_size=16)


def _inputs(target: ClassificationTarget) -> Tensor:
    return target.split("calibration").tensors[0]


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return network(inputs)


def _network(widths: tuple[int, int] = (6, 8), *, bias: bool = True) -> nn.Sequential:
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(2, first, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, stride=2, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 4, 5, bias=bias),
    ).eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_network_of_duplicated_channels_is_recovered_exactly(bias: bool) -> None:
    torch.manual_seed(1)
    reference = _network(bias=bias)
    # Channels 3, 4 and 5 repeat 0, 1 and 2, so those that are left can stand in for them.
    reference[0].weight.data[3:] = reference[0].weight.data[:3]
    if bias:
        reference[0].bias.data[3:] = reference[0].bias.data[:3]
    kept = torch.tensor([0, 1, 2])
    variant = copy.deepcopy(reference)
    variant[0] = nn.Conv2d(2, 3, 3, padding=1, bias=bias)
    variant[2] = nn.Conv2d(3, 8, 3, stride=2, bias=bias)
    variant[0].weight.data = reference[0].weight.data[kept]
    variant[2].weight.data = reference[2].weight.data[:, kept]
    if bias:
        variant[0].bias.data = reference[0].bias.data[kept]
        variant[2].bias.data = reference[2].bias.data
    target = _target(2, 5, 5)
    fresh = torch.randn(10, 2, 5, 5)
    before = (_outputs(variant, fresh) - _outputs(reference, fresh)).abs().max()
    assert reconstruct(variant, reference, target, {"0": kept}, max_batches=4, ridge=1e-9) == 3
    after = (_outputs(variant, fresh) - _outputs(reference, fresh)).abs().max()
    assert before > 0.05
    assert after < 1e-4


def test_the_default_pull_keeps_most_of_the_gain_and_order_of_channels() -> None:
    torch.manual_seed(3)
    reference = _network((12, 16))
    first, second = torch.tensor([7, 2, 9, 0, 5, 11]), torch.tensor([15, 3, 1, 8, 6, 4, 10, 12])
    variant = _network((6, 8))
    variant[0].weight.data = reference[0].weight.data[first]
    variant[0].bias.data = reference[0].bias.data[first]
    variant[2].weight.data = reference[2].weight.data[second][:, first]
    variant[2].bias.data = reference[2].bias.data[second]
    columns = (second[:, None] * 4 + torch.arange(4)).flatten()
    variant[5].weight.data = reference[5].weight.data[:, columns]
    variant[5].bias.data = reference[5].bias.data
    target = _target(2, 5, 5, count=512)
    fresh = torch.randn(100, 2, 5, 5) + 0.3
    wanted = _outputs(reference, fresh)
    before = (_outputs(variant, fresh) - wanted).square().mean()
    reconstruct(variant, reference, target, {"0": first, "2": second}, max_batches=32)
    after = (_outputs(variant, fresh) - wanted).square().mean()
    assert after < 0.5 * before


@pytest.mark.parametrize("width", [4, 80])  # less and more than there are samples
def test_a_linear_layer_gets_the_closed_form_ridge_solution(width: int) -> None:
    target = _target(width)
    torch.manual_seed(1)
    reference, variant = nn.Linear(width, 3), nn.Linear(width, 3)
    x, weight = _inputs(target).double(), variant.weight.detach().double()
    y = _outputs(reference, _inputs(target)).double()
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    gram = x_centred.T @ x_centred
    pull = 0.1 * gram.diagonal().mean() * torch.eye(width, dtype=torch.double)
    # Ridge regression towards the present weights: (X'X + rI) W = X'Y + r W0.
    expected = torch.linalg.inv(gram + pull) @ (x_centred.T @ y_centred + pull @ weight.T)
    reconstruct(variant, reference, target, {}, max_batches=4, ridge=0.1)
    torch.testing.assert_close(variant.weight, expected.T.float())
    bias = y.mean(0) - x.mean(0) @ expected
    torch.testing.assert_close(variant.bias, bias.float())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(2, 3, 3, padding=2, dilation=2), (2, 9)),
        (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 7, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2, stride=3), (2, 9, 8)),
        (lambda: nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 6, 6)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 5)),
        (lambda: nn.Conv3d(1, 3, 2, padding=1, bias=False), (1, 3, 4, 3)),
        (lambda: nn.Linear(6, 3), (5, 6)),
    ],
)
def test_windows_are_what_the_layer_sees(make: Callable[[], Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, inputs = make(), torch.randn(4, *shape)
    outputs = reconstruction.output_rows(layer, _outputs(layer, inputs))
    chosen = torch.randint(len(outputs), (50,))
    found = _input_rows(layer, inputs, chosen) @ layer.weight.detach().flatten(1).T
    if layer.bias is not None:
        found = found + layer.bias.detach()
    torch.testing.assert_close(found, outputs[chosen])
    assert reconstruction._count_rows(layer, inputs) == len(outputs)


def test_few_positions_drawn_from_many_do_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_ROWS", 400)
    torch.manual_seed(1)
    reference, variant = _network(), _network()
    same = copy.deepcopy(variant)
    target = _target(2, 5, 5)
    reconstruct(variant, reference, target, {}, max_batches=4, ridge=1e-9)
    reconstruct(same, reference, target, {}, max_batches=4, ridge=1e-9)
    fresh = torch.randn(10, 2, 5, 5)
    assert torch.equal(_outputs(variant, fresh), _outputs(same, fresh))
    torch.testing.assert_close(
        _outputs(variant, fresh), _outputs(reference, fresh), atol=1e-3, rtol=1e-3
    )


def test_shared_tensors_are_never_written_into() -> None:
    torch.manual_seed(1)
    reference, variant = _network(), _network()
    held = dict(variant.named_parameters())
    before = {name: tensor.clone() for name, tensor in held.items()}
    reconstruct(variant, reference, _target(2, 5, 5), {}, max_batches=4)
    for name, parameter in variant.named_parameters():
        assert torch.equal(held[name], before[name]), name
        assert parameter is not held[name], name


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.relu(self.one(x)))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class _PadsItself(nn.Conv2d):
    """As TensorFlow's convolutions do, which networks were taken over from."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 2, 0, 2)))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: _PadsItself(4, 4, 3), (4, 5, 5)),
        (_Tied, (4,)),
        (_Twice, (4,)),
        (lambda: nn.Conv2d(4, 4, 1, groups=2), (4, 3, 3)),
        (lambda: nn.ConvTranspose2d(4, 4, 2), (4, 3, 3)),
    ],
)
def test_layers_that_cannot_be_fitted_are_passed_over(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    reference, variant = make(), make()
    before = copy.deepcopy(variant.state_dict())
    assert reconstruct(variant, reference, _target(*shape), {}, max_batches=1) == 0
    for name, tensor in variant.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_layer_that_mixes_tokens_has_other_rows_when_channels_are_gone() -> None:
    def mixer(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(2, channels, 1),
            nn.Linear(5, 5),  # over tokens: its rows are channels
            nn.Flatten(),
            nn.Linear(channels * 5, 3),
        ).eval()

    reference, variant = mixer(4), mixer(3)
    before = variant[1].weight.clone()
    kept = {"0": torch.arange(3)}
    assert reconstruct(variant, reference, _target(2, 5), kept, max_batches=1) == 2
    assert torch.equal(variant[1].weight, before)


def test_silent_inputs_leave_the_weights() -> None:
    class Silent(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 0)

    reference, variant = Silent(nn.Linear(4, 3)), Silent(nn.Linear(4, 3))
    before = variant[0].weight.clone()
    reconstruct(variant, reference, _target(4), {}, max_batches=1)
    assert torch.equal(variant[0].weight, before)
    assert torch.isfinite(variant[0].bias).all()
