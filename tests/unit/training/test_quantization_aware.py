from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.quantizers.activations import ActivationQuantizer
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.blocks import Blocking
from rl_compress.quantizers.model import Quantization
from rl_compress.quantizers.ranges import make_clip
from rl_compress.quantizers.symmetric import Symmetric
from rl_compress.quantizers.uniform import Uniform
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.training.quantization_aware import (
    LearnedRange,
    LearnedStep,
    quantization_aware_finetune,
)
from rl_compress.training.recovery import FinetuningConfig, finetune


def _step(weight: Tensor, step: float, bits: int = 3) -> LearnedStep:
    quantizer = Symmetric(bits, make_clip("minmax", bits, 100.0))
    learned = LearnedStep(weight, quantizer, Blocking("tensor"))
    learned.step = nn.Parameter(torch.tensor([[step]]))
    return learned


def test_gradients_are_those_of_the_paper() -> None:
    # Three bits: Q = 3. Relative to the step 0.5: 0.8, -2.6, and 5 beyond the grid.
    weight = torch.tensor([[0.4, -1.3, 2.5]], requires_grad=True)
    learned = _step(weight, 0.5)
    rounded = learned(weight)
    assert rounded.tolist() == [[0.5, -1.5, 1.5]]
    (rounded * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    # Straight through within the grid, nothing beyond it.
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 10.0, 0.0]]
    by_hand = 1.0 * (1 - 0.8) + 10.0 * (-3 + 2.6) + 100.0 * 3
    assert learned.step.grad is not None
    assert learned.step.grad.item() == pytest.approx(by_hand / math.sqrt(3 * 3), rel=1e-5)


def test_ranges_of_inputs_learn_too() -> None:
    parameters = {"minimum": torch.tensor([[-1.0]]), "scale": torch.tensor([[1.0]])}
    quantizer = Uniform(2, make_clip("minmax", 2, 100.0))
    learned = LearnedRange(ActivationQuantizer(quantizer, parameters))
    values = torch.tensor([[-3.0, 0.2, 9.0]], requires_grad=True)
    (rounded,) = learned(nn.Identity(), (values,))
    assert rounded.tolist() == [[-1.0, 0.0, 2.0]]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 0.0]]
    # Where it is clipped the offset moves the value: LSQ+, equation 2.
    assert learned.minimum.grad is not None
    assert learned.minimum.grad.item() == pytest.approx(2 / math.sqrt(3 * 3))


def _target() -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 8, 8, generator=generator)
    labels = (images[:, 0, :, :4].mean(dim=(1, 2)) > 0).long()
    data = TensorDataset(images, labels)
    return ClassificationTarget(lambda: zoo.make("plain"), dict.fromkeys(SPLITS, data))


def _train(
    model: nn.Module, masks: dict[str, Tensor] | None = None, **quantization: Any
) -> Quantization:
    target = _target()
    config = QuantizationConfig(**quantization)
    found, _ = quantization_aware_finetune(
        model,
        zoo.make("plain"),
        target,
        config,
        FinetuningConfig(epochs=2, batch_size=16),
        LayerBits.same(model, config, lambda layer: layer == "fc2"),
        masks=masks,
    )
    return found


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [1, 3])
def test_weights_end_on_their_grid_and_nothing_of_the_training_is_left(
    granularity: str, bits: int
) -> None:
    model = zoo.make("plain")
    names = {name for name, _ in model.named_modules()}
    found = _train(model, weight_bits=bits, activation_bits=4, granularity=granularity)
    assert set(found.weights) == {"conv1.weight", "conv2.weight", "fc1.weight"}
    assert set(found.activations) == {"conv1", "conv2", "fc1"}
    for name, quantized in found.weights.items():
        assert torch.equal(model.get_parameter(name), quantized.dequantize())
        blocks = quantized.blocking.split(quantized.dequantize())
        assert all(len(block.unique()) <= 1 << bits for block in blocks)
    assert {name for name, _ in model.named_modules()} == names
    assert set(model.state_dict()) == set(zoo.make("plain").state_dict())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    inputs = torch.randn(4, 1, 8, 8)
    assert torch.equal(copy.deepcopy(model)(inputs), model(inputs))


def test_masked_weights_stay_zero() -> None:
    model = zoo.make("plain")
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(model.fc1.weight.shape, generator=generator) < 0.5
    with torch.no_grad():
        model.fc1.weight.mul_(mask)
    found = _train(model, {"fc1.weight": mask}, weight_bits=3)
    assert (model.fc1.weight[~mask] == 0).all()
    assert (model.fc1.weight[mask] != 0).float().mean() > 0.3
    assert "fc1.weight" in found.weights


def test_recovery_keeps_the_zeros_of_sparse_weights() -> None:
    model = zoo.make("plain")
    mask = torch.rand(model.fc1.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        model.fc1.weight.mul_(mask)
    before = model.fc1.weight.detach().clone()
    config = FinetuningConfig(epochs=2, batch_size=16, distillation=0.0)
    finetune(model, zoo.make("plain"), _target(), config, masks={"fc1.weight": mask})
    assert (model.fc1.weight[~mask] == 0).all()
    assert not torch.equal(model.fc1.weight, before)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = zoo.make("plain"), zoo.make("plain")
    _train(first, weight_bits=2, activation_bits=3)
    _train(second, weight_bits=2, activation_bits=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
