from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.evaluation import precision
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.precision import Passes, Precision, passes_for, settled
from rl_compress.targets.target import ClassificationTarget
from rl_compress.variants.compressor import Compressor

NARROW = np.array([3, 4, 8])  # 4, 6 and 10 units
FAST = Passes(bfloat16=True, channels_last=True)


class Seen(nn.Module):
    """Notes what its convolution puts out."""

    def __init__(self, *, views: bool = False, strict: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 4)
        self.views, self.strict = views, strict

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        self.dtype = found.dtype
        self.last = found.is_contiguous(memory_format=torch.channels_last)
        if self.strict and found.dtype != torch.float32:
            raise TypeError("float32 only")
        return self.head(found.view(len(found), -1) if self.views else found.flatten(1))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_passes_take_less_precision_and_give_float32_within_the_block_only() -> None:
    model = Seen()
    with torch.no_grad():
        exact = model(IMAGES)
        assert (model.dtype, model.last) == (torch.float32, False)
        with FAST.of(model):
            found = model(IMAGES)
        assert (model.dtype, model.last) == (torch.bfloat16, True)
        assert found.dtype == torch.float32
        assert 0 < float((found - exact).abs().max()) < 0.03
        assert torch.equal(model(IMAGES), exact)
    assert "forward" not in vars(model)


def test_a_forward_of_the_models_own_is_put_back() -> None:
    model = Seen()
    own = model.forward = lambda images: 2.0 * Seen.forward(model, images)
    with torch.no_grad(), FAST.of(model):
        model(IMAGES)
    assert vars(model)["forward"] is own


def test_passes_with_gradients_stay_as_they_are() -> None:
    model, inputs = Seen(), IMAGES.clone().requires_grad_()
    with FAST.of(model):
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs)
    assert (model.dtype, model.last) == (torch.float32, False)
    (expected,) = torch.autograd.grad(model(inputs).sum(), inputs)
    assert torch.equal(slope, expected)


@pytest.mark.parametrize(
    ("asked", "model", "expected"),
    [
        ("float32", Seen(), Passes()),
        ("auto", Seen(), Passes(channels_last=True)),
        ("auto", Seen(views=True), Passes()),
        ("bfloat16", Seen(strict=True, views=True), None),
        ("bfloat16", Seen(), FAST),
        ("bfloat16", Seen(views=True), Passes(bfloat16=True)),
    ],
)
def test_the_layout_is_one_that_the_model_takes(
    asked: Precision, model: nn.Module, expected: Passes | None
) -> None:
    if expected is not None:
        assert passes_for(asked, model, [IMAGES]) == expected
        return
    with pytest.raises(ConfigError, match=r"evaluation\.precision: the model cannot be run in bfl"):
        passes_for(asked, model, [IMAGES])


@pytest.mark.parametrize(
    ("asked", "computes", "strict", "quantized", "expected"),
    [
        ("auto", True, False, False, "bfloat16"),
        ("auto", False, False, False, "auto"),
        ("auto", True, True, False, "auto"),
        ("auto", True, False, True, "auto"),
        ("float32", True, False, False, "float32"),
        ("bfloat16", False, False, False, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_it_pays_and_is_sound(
    asked: Precision,
    *,
    computes: bool,
    strict: bool,
    quantized: bool,
    expected: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda: computes)
    assert settled(asked, Seen(strict=strict), [IMAGES], quantized=quantized) == expected


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
@pytest.mark.parametrize("racing", [False, True])
@pytest.mark.parametrize("recalibration", ["batchnorm", "reconstruction"])
def test_scores_are_near_those_in_float32_which_can_still_be_had(
    asked: Precision,
    *,
    racing: bool,
    recalibration: str,
    target: ClassificationTarget,
    compressor: Compressor,
) -> None:
    def make(**options: object) -> Evaluator:
        config = EvaluationConfig.model_validate(
            {"recalibration": recalibration, "racing": racing, **options}
        )
        return Evaluator(target, compressor, "fidelity", config)

    exact, fast = make(), make(precision=asked)
    expected = exact.evaluate(NARROW).score
    found = fast.evaluate(NARROW).score
    assert found == pytest.approx(expected, rel=0.05)
    assert asked == "auto" or found != expected
    assert fast.in_float32().evaluate(NARROW).score == expected
    assert fast.evaluate(NARROW).score == found
    assert exact.in_float32() is exact


def test_latency_is_that_of_float32(
    target: ClassificationTarget, compressor: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []

    def measured(network: nn.Module, inputs: list[Tensor]) -> float:
        handle = network.register_forward_hook(lambda *call: seen.append(call[2].dtype))
        inner = [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1]
        other = inner.register_forward_hook(lambda *call: seen.append(call[2].dtype))
        with torch.no_grad():
            network(*inputs)
        handle.remove()
        other.remove()
        return 1.0

    monkeypatch.setattr("rl_compress.evaluation.evaluator.measure_latency_ms", measured)
    config = EvaluationConfig(precision="bfloat16")
    Evaluator(target, compressor, "fidelity", config, latency=True).evaluate(NARROW)
    assert seen == [torch.float32] * 2


def test_processors_are_asked_by_the_names_that_torch_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for known, expected in [
        ({"avx512_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert precision.computes_in_bfloat16() is expected
