from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Scores, make_importance, ranked
from rl_compress.model.groups import LayerGroup, find_groups
from rl_compress.space.space_config import PruningConfig, SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget


def _chain(first: list[list[float]], second: list[list[float]]) -> nn.Module:
    weights = torch.tensor(first), torch.tensor(second)
    layers = [nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1]).eval()


def _first_group(model: nn.Module) -> tuple[nn.Module, LayerGroup]:
    inputs = torch.zeros(1, next(model.parameters()).shape[1])
    groups = find_groups(model, (inputs,), SpaceConfig()).groups
    return model, groups[0]


def _units(model: nn.Module, group: LayerGroup, name: str) -> Scores:
    importance = make_importance(PruningConfig(importance=name), None)
    return importance.units(Evidence(model), [group])[0]


def _weights(model: nn.Module, name: str, target: ClassificationTarget) -> dict[str, Tensor]:
    return make_importance(PruningConfig(importance=name), target).weights(Evidence(model, target))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        # Rows (3, 4), (5, 0), (0, 1); columns 1, 2, 3; each list is divided by its mean.
        pytest.param("l1", [7 / (13 / 3) + 0.5, 5 / (13 / 3) + 1, 1 / (13 / 3) + 1.5], id="l1"),
        pytest.param("l2", [5 / (11 / 3) + 0.5, 5 / (11 / 3) + 1, 1 / (11 / 3) + 1.5], id="l2"),
    ],
)
def test_importance_is_the_sum_of_relative_norms(norm: str, expected: list[float]) -> None:
    model = _chain([[3.0, 4.0], [5.0, 0.0], [0.0, 1.0]], [[1.0, 2.0, 3.0]])
    importance = _units(*_first_group(model), norm)
    np.testing.assert_allclose(importance, expected, rtol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("l1", [1, 0]), ("l2", [0, 1])])
def test_the_norms_rank_differently(norm: str, expected: list[int]) -> None:
    model = _chain([[3.0, 0.0, 0.0], [1.5, 1.5, 1.5]], [[1.0, 1.0]])
    assert ranked(_units(*_first_group(model), norm)).tolist() == expected


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_units_are_ranked_from_most_to_least_important(norm: str) -> None:
    scale = torch.tensor([0.2, 3.0, 1.0, 0.1, 2.0])
    conv = nn.Conv2d(2, 5, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.ones_like(conv.weight) * scale.reshape(-1, 1, 1, 1))
    last = nn.Conv2d(5, 2, 1)
    nn.init.ones_(last.weight)
    model = nn.Sequential(conv, nn.ReLU(), last).eval()
    groups = find_groups(model, (torch.zeros(1, 2, 8, 8),), SpaceConfig()).groups
    assert ranked(_units(model, groups[0], norm)).tolist() == [1, 4, 2, 0, 3]


def test_the_scale_of_one_layer_does_not_outweigh_another() -> None:
    first, second = [[1.0], [2.0], [4.0]], [[3.0, 2.0, 1.0]]
    small = _units(*_first_group(_chain(first, second)), "l2")
    large = _units(*_first_group(_chain([[1e4 * x for x in r] for r in first], second)), "l2")
    np.testing.assert_allclose(small, large, rtol=1e-6)


def test_equal_units_stay_in_order() -> None:
    model = _chain([[1.0], [1.0], [1.0], [1.0]], [[1.0, 1.0, 1.0, 1.0]])
    assert ranked(_units(*_first_group(model), "l2")).tolist() == [0, 1, 2, 3]


def test_silent_weights_have_no_importance() -> None:
    model = _chain([[0.0], [0.0]], [[0.0, 0.0]])
    assert _units(*_first_group(model), "l2").tolist() == [0.0, 0.0]


def test_a_unit_of_a_grouped_convolution_counts_all_its_channels() -> None:
    conv, grouped = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2)
    with torch.no_grad():
        # Unit 0 is channels 0 and 2, unit 1 is channels 1 and 3.
        conv.weight.copy_(torch.tensor([0.0, 2.0, 3.0, 2.5]).reshape(4, 1, 1, 1))
        grouped.weight.fill_(1.0)
    model = nn.Sequential(conv, nn.ReLU(), grouped).eval()
    groups = find_groups(model, (torch.zeros(1, 1, 4, 4),), SpaceConfig()).groups
    importance = _units(model, groups[0], "l1")
    np.testing.assert_allclose(importance, [3.0 / 3.75 + 1, 4.5 / 3.75 + 1], rtol=1e-6)


def _target(model: nn.Module, features: int) -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, features, generator=generator)
    labels = torch.randint(0, 2, (40,), generator=generator)
    data = TensorDataset(inputs, labels)
    return ClassificationTarget(lambda: model, dict.fromkeys(SPLITS, data), batch_size=10)


def _classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False)
    ).eval()


def test_activation_weighs_by_the_norm_of_the_inputs() -> None:
    model = _classifier()
    target = _target(model, 3)
    inputs = torch.cat([x for x, _ in target.batches("calibration")])
    found = _weights(model, "activation", target)
    expected = model[0].weight.abs() * inputs.norm(dim=0)
    torch.testing.assert_close(found["0.weight"].float(), expected)


def test_taylor_is_the_weight_times_its_gradient() -> None:
    model = _classifier()
    target = _target(model, 3)
    expected = torch.zeros(4, 3)
    for inputs, labels in target.batches("calibration"):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        (gradient,) = torch.autograd.grad(loss, model[0].weight)
        expected += (model[0].weight * gradient).abs() / 4
    torch.testing.assert_close(
        _weights(model, "taylor", target)["0.weight"].float(), expected.detach()
    )


def test_batchnorm_ranks_by_its_scale() -> None:
    model = _classifier()
    model[1].weight = nn.Parameter(torch.tensor([0.5, -2.0, 1.0, 0.1]))
    groups = find_groups(model, (torch.zeros(1, 3),), SpaceConfig()).groups
    scores = _units(model, groups[0], "batchnorm")
    np.testing.assert_allclose(scores, [0.5, 2.0, 1.0, 0.1])
    plain = _chain([[3.0, 4.0], [5.0, 0.0]], [[1.0, 2.0]])
    groups = find_groups(plain, (torch.zeros(1, 2),), SpaceConfig()).groups
    with pytest.raises(ConfigError, match=r"batchnorm .* but 0 has none"):
        _units(plain, groups[0], "batchnorm")


def test_units_near_the_geometric_median_matter_least() -> None:
    model = _chain([[0.0, 1.0], [0.0, 2.0], [0.0, 9.0]], [[1.0, 1.0, 1.0]])
    groups = find_groups(model, (torch.zeros(1, 2),), SpaceConfig()).groups
    scores = _units(model, groups[0], "geometric_median")
    # Distances to the others 1 + 8, 1 + 7, 8 + 7, divided by their mean; the second layer adds 0.
    np.testing.assert_allclose(scores, np.array([9, 8, 15]) / (32 / 3))


def test_random_is_random_but_the_same_every_time() -> None:
    model = _classifier()
    groups = find_groups(model, (torch.zeros(1, 3),), SpaceConfig()).groups
    first, second = (_units(model, groups[0], "random") for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first)) == 4


def test_grouped_convolutions_see_the_inputs_of_their_part() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2, bias=False)).eval()
    inputs = torch.randn(8, 4, 2, 2) * torch.tensor([1.0, 10.0, 100.0, 1000.0])[:, None, None]
    data = TensorDataset(inputs, torch.zeros(8, 2, 2, dtype=torch.long))
    target = ClassificationTarget(lambda: model, dict.fromkeys(SPLITS, data))
    norms = inputs.square().sum(dim=(0, 2, 3)).sqrt()
    found = _weights(model, "activation", target)["0.weight"][:, :, 0, 0].float()
    expected = model[0].weight.abs()[:, :, 0, 0] * torch.stack([norms[:2]] * 3 + [norms[2:]] * 3)
    torch.testing.assert_close(found, expected)
