from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo
from pydantic import ValidationError
from tiny_target import tiny
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.evaluation.adversarial import Ball, InputAttack, RobustnessConfig, fgsm, pgd
from rl_compress.evaluation.straight_through import straight_through
from rl_compress.quantizers.activations import quantize_activations
from rl_compress.quantizers.bits import LayerBits
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.batches import NestedDataset
from rl_compress.targets.target import SPLITS, ClassificationTarget, Target

MakeTarget = Callable[[Callable[[], nn.Module]], ClassificationTarget]


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels)


def _against(labels: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, inputs: _loss(model(inputs), labels)


def _sum(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).sum()


def _batch() -> tuple[nn.Module, Tensor, Tensor]:
    model = zoo.make("plain")
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(6, 1, 8, 8, generator=generator)
    return model, inputs, torch.randint(10, (6,), generator=generator)


def test_fgsm_is_one_step_along_the_sign_of_the_gradient() -> None:
    model, inputs, labels = _batch()
    leaf = inputs.clone().requires_grad_()
    _loss(model(leaf), labels).backward()
    assert leaf.grad is not None
    wide = Ball(0.1, -10.0, 10.0)
    expected = inputs + 0.1 * leaf.grad.sign()
    found = fgsm(model, inputs, _against(labels), wide)
    assert torch.allclose(found, expected, atol=1e-7)
    clamped = fgsm(model, inputs, _against(labels), Ball(0.1, 0.0, 1.0))
    assert torch.allclose(clamped, expected.clamp(0.0, 1.0), atol=1e-7)


def test_fgsm_of_a_linear_model_is_known_without_a_gradient() -> None:
    model = nn.Linear(3, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.0]]))
    inputs = torch.tensor([[0.5, 0.5, 0.5]])
    found = fgsm(model, inputs, _sum, Ball(0.2, 0.0, 1.0))
    assert found.tolist() == [[pytest.approx(0.7), pytest.approx(0.3), 0.5]]


def test_pgd_stays_in_the_ball_and_in_the_range() -> None:
    model, inputs, labels = _batch()
    ball = Ball(0.05, 0.0, 1.0)
    found = pgd(
        model,
        inputs,
        _against(labels),
        ball,
        steps=4,
        step_size=0.03,
        generator=torch.Generator().manual_seed(0),
    )
    assert float((found - inputs).abs().max()) <= 0.05 + 1e-6
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert _loss(model(found), labels) > _loss(model(inputs), labels)


def test_pgd_of_a_linear_model_ends_in_the_corner_wherever_it_starts() -> None:
    model = nn.Linear(3, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[2.0, -1.0, 3.0]]))
    inputs = torch.tensor([[0.5, 0.5, 0.95]])
    for seed in range(3):
        found = pgd(
            model,
            inputs,
            _sum,
            Ball(0.2, 0.0, 1.0),
            steps=4,
            step_size=0.1,
            generator=torch.Generator().manual_seed(seed),
        )
        assert found.tolist() == [[pytest.approx(0.7), pytest.approx(0.3), 1.0]]


@pytest.mark.parametrize("steps", [1, 3])
def test_an_attack_hurts_and_is_repeatable_and_leaves_all_else_alone(steps: int) -> None:
    target = tiny()
    model = target.build()
    model.zero_grad()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    attack = InputAttack(target, RobustnessConfig(epsilon=0.1, steps=steps, seed=3), key="key")
    first = attack.score(model)
    assert first < target.score(model, "search") - 5
    assert attack.score(model) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    again = InputAttack(tiny(), RobustnessConfig(epsilon=0.1, steps=steps, seed=3), key="key")
    assert again.score(model) == first


def test_the_range_is_the_search_splits_own(make_target: MakeTarget) -> None:
    target = make_target(lambda: zoo.make("plain"))
    inputs = torch.cat([inputs for inputs, _ in target.batches("search")])
    attack = InputAttack(target, RobustnessConfig(epsilon=0.25), key="key")
    low, high = float(inputs.min()), float(inputs.max())
    assert attack.ball == Ball(0.25 * (high - low), low, high)
    ((clean, labels), (changed, same)), *_ = attack.batches(target.build())
    assert torch.equal(clean, inputs[:10])
    assert torch.equal(labels, same)
    assert float((changed - clean).abs().max()) <= attack.ball.epsilon + 1e-6


class _Masked(nn.Linear):
    def forward(self, input: Tensor, mask: Tensor) -> Tensor:
        return super().forward(input * mask)


def test_of_several_inputs_the_one_of_floating_point_is_changed() -> None:
    batch = {"input": torch.randn(8, 3), "mask": torch.ones(8, 3).long()}
    batch["labels"] = torch.arange(8) % 2
    target = ClassificationTarget(
        lambda: _Masked(3, 2), dict.fromkeys(SPLITS, NestedDataset(batch))
    )
    attack = InputAttack(target, RobustnessConfig(epsilon=0.5), key="key")
    model = target.build()
    ((clean, changed),) = attack.batches(model)
    assert not torch.equal(changed["input"], batch["input"])
    assert torch.equal(clean["input"], batch["input"])
    assert all(torch.equal(changed[name], batch[name]) for name in ("mask", "labels"))
    assert attack.score(model) <= target.score(model, "search")
    batch["mask"] = batch["mask"].float()
    two = ClassificationTarget(lambda: _Masked(3, 2), dict.fromkeys(SPLITS, NestedDataset(batch)))
    with pytest.raises(ConfigError, match=r"one tensor of them.*torch.float32, torch.float32"):
        InputAttack(two, RobustnessConfig(), key="key")


class _Careless(ClassificationTarget):
    """Scores data of its own."""

    def score(self, model: nn.Module, split: str) -> float:
        return float(self._splits[split][0][1])


class _Lossless(ClassificationTarget):
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return Target.loss(self, outputs, labels)  # type: ignore[return-value]


def _splits(inputs: Tensor) -> dict[str, Dataset[tuple[Tensor, Tensor]]]:
    data = TensorDataset(inputs, torch.arange(len(inputs)) % 2)
    return dict.fromkeys(SPLITS, data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "inputs", "says"),
    [
        (_Careless, torch.randn(4, 2), "the target's score\\(\\) must read its data"),
        (_Lossless, torch.randn(4, 2), "needs the target's loss.*implement it in _Lossless"),
        (ClassificationTarget, torch.arange(8).view(4, 2), "floating-point inputs.*torch.int64"),
        (ClassificationTarget, torch.ones(4, 2), "range from 1.0 to 1.0"),
    ],
)
def test_what_cannot_be_attacked_is_said(
    make: type[ClassificationTarget], inputs: Tensor, says: str
) -> None:
    target = make(lambda: nn.Linear(2, 2), _splits(inputs))
    with pytest.raises(ConfigError, match=f"objective.score: .*{says}"):
        InputAttack(target, RobustnessConfig(), key="objective.score").score(target.build())


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"steps": 0}, {"step": 1}]
)
def test_wrong_strengths_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RobustnessConfig(**wrong)  # type: ignore[arg-type]


def test_rounded_activations_let_gradients_pass_during_an_attack() -> None:
    model, inputs, labels = _batch()
    config = QuantizationConfig(activation_bits=4)
    bits = LayerBits.same(model, config).activations
    quantize_activations(model, lambda m: m(inputs), config, bits)
    with torch.no_grad():
        outputs = model(inputs)
    hooks = [len(layer._forward_pre_hooks) for layer in model.modules()]
    ball = Ball(0.05, 0.0, 1.0)
    changed = fgsm(model, inputs, _against(labels), ball)
    assert float(((changed - inputs).abs() > 0).float().mean()) > 0.9
    assert _loss(model(changed), labels) > _loss(outputs, labels)
    with straight_through(model), torch.no_grad():
        assert torch.allclose(model(inputs), outputs, atol=1e-5)
    assert [len(layer._forward_pre_hooks) for layer in model.modules()] == hooks
