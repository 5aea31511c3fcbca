from __future__ import annotations

import copy

import numpy as np
import torch
import zoo
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.importance.contribution import contribution_pruning
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.units import Units
from rl_compress.model.groups import find_groups
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.training.iterative import fade_channels, train_scaled


def _target() -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 8, 8, generator=generator)
    data = TensorDataset(images, (images.mean(dim=(1, 2, 3)) > 0).long())
    return ClassificationTarget(lambda: zoo.make("plain"), dict.fromkeys(SPLITS, data))


GROUPS = [
    group
    for group in find_groups(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig()).groups
    if group.prunable and group.name != "fc2"
]
WIDTHS = np.array([group.num_units // 2 for group in GROUPS])


def test_without_training_the_largest_contributions_of_the_whole_network_stay() -> None:
    model, target = zoo.make("plain"), _target()
    before = copy.deepcopy(model.state_dict())
    config = ContributionConfig(iterations=1, samples=64)
    _, orders = fade_channels(model, zoo.make("plain"), target, GROUPS, WIDTHS, config)
    units = Units.channels(model, GROUPS)
    found = contribution_pruning(model, units, target, config).by_group()
    for order, contributions in zip(orders, found, strict=True):
        np.testing.assert_array_equal(order, np.argsort(-contributions, kind="stable"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_network_learns_to_do_without_the_channels_that_fade() -> None:
    target, teacher = _target(), zoo.make("plain")
    config = ContributionConfig(iterations=6, finetune_steps=20, learning_rate=3e-3, samples=64)
    inputs = torch.cat([batch for batch, _ in target.batches("search")])
    expected = teacher(inputs)

    def faded(config: ContributionConfig) -> tuple[nn.Module, float]:
        model, orders = fade_channels(teacher, teacher, target, GROUPS, WIDTHS, config)
        units = Units.channels(model, GROUPS)
        kept = [np.isin(np.arange(len(o)), o[:w]) for o, w in zip(orders, WIDTHS, strict=True)]
        ratios = torch.from_numpy(np.concatenate(kept)).float()
        scaled = {k: model.get_parameter(k) * m for k, m in units.multipliers(ratios).items()}
        outputs = torch.func.functional_call(model, scaled, (inputs,))
        return model, float(target.distillation_loss(outputs, expected, 1.0))

    _, before = faded(config.model_copy(update={"finetune_steps": 0}))
    trained, after = faded(config)
    assert after < 0.7 * before
    assert not trained.training
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_contribution_pruning_can_train_in_between() -> None:
    model, target = zoo.make("plain"), _target()
    before = copy.deepcopy(model.state_dict())
    config = ContributionConfig(iterations=2, finetune_steps=2, samples=64)

    def train(network: nn.Module, multipliers: dict[str, torch.Tensor]) -> None:
        train_scaled(network, multipliers, model, target, config)

    units = Units.channels(model, GROUPS)
    result = contribution_pruning(model, units, target, config, train=train)
    assert not torch.equal(result.model.get_parameter("fc1.weight"), before["fc1.weight"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class _Noisy(ClassificationTarget):
    def augment(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + torch.randn_like(inputs)


def test_training_in_between_varies_its_samples_by_the_seed() -> None:
    plain = _target()
    noisy = _Noisy(lambda: zoo.make("plain"), {name: plain.split(name) for name in SPLITS})
    config, teacher = ContributionConfig(finetune_steps=2, samples=64), zoo.make("plain")

    def trained(target: ClassificationTarget, seed: int) -> torch.Tensor:
        model = zoo.make("plain")
        train_scaled(model, {}, teacher, target, config, seed=seed)
        return model.get_parameter("fc1.weight")

    assert torch.equal(trained(noisy, 3), trained(noisy, 3))
    assert not torch.equal(trained(noisy, 3), trained(plain, 3))
