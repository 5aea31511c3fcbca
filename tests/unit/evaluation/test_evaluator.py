from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import EvaluationError
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator, Recalibration
from rl_compress.evaluation.fidelity import Fidelity
from rl_compress.evaluation.scores import TargetScore
from rl_compress.space.search_space import Amounts
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor
from rl_compress.variants.slimmable import SlimmableNetwork

MakeTarget = Callable[[Callable[[], nn.Module]], ClassificationTarget]

NARROW = np.array([3, 4, 8])  # 4, 6 and 10 units


def _config(method: Recalibration, batches: int = 4) -> EvaluationConfig:
    return EvaluationConfig(recalibration=method, calibration_batches=batches)


def _outputs(model: nn.Module, target: ClassificationTarget) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(inputs) for inputs, _ in target.batches("search")])


def test_fidelity_of_the_uncompressed_model_is_zero(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    evaluator = Evaluator(target, compressor, "fidelity", _config("none"))
    assert evaluator.evaluate(compressor.space.full).score == pytest.approx(0, abs=1e-9)


def test_fidelity_of_a_narrower_model_is_negative(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    evaluator = Evaluator(target, compressor, "fidelity", _config("none"))
    assert evaluator.evaluate(NARROW).score < -1e-4


def test_fidelity_is_minus_the_mean_divergence(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    evaluator = Evaluator(target, compressor, "fidelity", _config("none"))
    p = _outputs(target.build(), target).double().softmax(-1)
    q = _outputs(compressor.variant(NARROW), target).double().softmax(-1)
    expected = -(p * (p / q).log()).sum(-1).mean()
    assert evaluator.evaluate(NARROW).score == pytest.approx(float(expected), rel=1e-4)


def test_fidelity_of_images_compares_classes_along_the_second_axis() -> None:
    images = TensorDataset(torch.randn(6, 3, 4, 4), torch.zeros(6, 4, 4).long())
    target = ClassificationTarget(nn.Identity, dict.fromkeys(SPLITS, images), batch_size=4)
    shifted = nn.Module()
    shifted.forward = lambda x: x + 5.0  # type: ignore[assignment]
    scaled = nn.Module()
    scaled.forward = lambda x: 2 * x  # type: ignore[assignment]
    fidelity = Fidelity(target, nn.Identity())
    assert fidelity(shifted) == pytest.approx(0, abs=1e-6)  # softmax does not see a shift
    p, q = images.tensors[0].log_softmax(1), (2 * images.tensors[0]).log_softmax(1)
    expected = -(p.exp() * (p - q)).sum(1).mean()
    assert fidelity(scaled) == pytest.approx(float(expected), rel=1e-4)


def test_accuracy_is_the_targets_own_score_on_the_search_split(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    evaluator = Evaluator(target, compressor, "accuracy", _config("none"))
    labels = torch.cat([labels for _, labels in target.batches("search")])
    predicted = _outputs(compressor.variant(NARROW), target).argmax(-1)
    expected = 100.0 * float((predicted == labels).float().mean())
    assert evaluator.evaluate(NARROW).score == pytest.approx(expected)


def test_a_model_that_is_always_right_scores_a_hundred() -> None:
    labels = torch.arange(8) % 4
    data = TensorDataset(torch.eye(4)[labels], labels)
    target = ClassificationTarget(nn.Identity, dict.fromkeys(SPLITS, data), batch_size=3)
    assert TargetScore(target, nn.Identity())(nn.Identity()) == 100.0


def test_costs_are_the_analytic_ones_and_time_is_measured(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    found = Evaluator(target, compressor, "fidelity", _config("none")).evaluate(NARROW)
    assert found.costs == compressor.costs.costs(NARROW)
    assert 0 < found.wall_s < 60


@pytest.mark.parametrize(
    ("network", "method"), [("plain", "batchnorm"), ("grouped", "reconstruction")]
)
def test_auto_recalibrates_as_the_model_needs(
    network: str, method: Recalibration, make_target: MakeTarget
) -> None:
    target = make_target(lambda: zoo.make(network))
    compressor = Compressor.prepare(target.build(), zoo.EXAMPLE, SpaceConfig())
    levels = compressor.space.nearest(compressor.space.full_amounts // 2)
    outputs = {
        name: _outputs(
            Evaluator(target, compressor, "fidelity", _config(name)).variant(levels).cpu(), target
        )
        for name in ("auto", "none", method)
    }
    assert torch.equal(outputs["auto"], outputs[method])
    assert not torch.equal(outputs["auto"], outputs["none"])


@pytest.mark.parametrize("method", ["batchnorm", "reconstruction", "bias"])
def test_every_repair_brings_a_variant_nearer_to_the_original(
    method: Recalibration, compressor: Compressor, target: ClassificationTarget
) -> None:
    # Statistics that were recorded on other data are what BatchNorm recalibration repairs.
    none = Evaluator(target, compressor, "fidelity", _config("none")).evaluate(NARROW).score
    repaired = Evaluator(target, compressor, "fidelity", _config(method)).evaluate(NARROW).score
    assert repaired != none
    if method != "batchnorm":
        assert repaired > none


def test_recalibration_reads_the_number_of_batches_given(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    variants = [
        Evaluator(target, compressor, "fidelity", _config("batchnorm", count)).variant(NARROW).cpu()
        for count in (1, 2)
    ]
    means = [variant.get_buffer("bn1.running_mean") for variant in variants]
    inputs = torch.cat([inputs for inputs, _ in target.batches("calibration")])
    for mean, samples in zip(means, (10, 20), strict=True):
        with torch.no_grad():
            expected = variants[0].conv1(inputs[:samples]).mean((0, 2, 3))
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)


def test_an_evaluation_does_not_change_later_ones(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    evaluator = Evaluator(target, compressor, "fidelity", _config("auto"))
    first = evaluator.evaluate(NARROW).score
    evaluator.evaluate(compressor.space.smallest)
    assert evaluator.evaluate(NARROW).score == first


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_an_error(bad: float, make_target: MakeTarget) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(self.first(x.flatten(1)).relu())
            return y if self.first.out_features != 2 else y * bad

    model = Fragile().eval()
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    evaluator = Evaluator(make_target(lambda: model), compressor, "fidelity", _config("none"))
    with pytest.raises(EvaluationError, match=r"the variant with units and bits \[2\] scored nan"):
        evaluator.evaluate(np.array([1]))


def test_latency_is_measured_only_when_asked_for(
    target: ClassificationTarget, compressor: Compressor
) -> None:
    quiet = Evaluator(target, compressor, "fidelity", _config("none"))
    assert "latency_ms" not in quiet.evaluate(NARROW).costs
    assert "latency_ms" not in quiet.original_costs
    timed = Evaluator(target, compressor, "fidelity", _config("none"), latency=True)
    found = timed.evaluate(NARROW)
    assert 0 < found.costs["latency_ms"] < 1000
    assert 0 < timed.original_costs["latency_ms"] < 1000


def test_a_variant_built_ahead_is_not_built_again(
    target: ClassificationTarget, compressor: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Evaluator(target, compressor, "fidelity", EvaluationConfig())
    ahead = Evaluator(target, compressor, "fidelity", EvaluationConfig())
    expected = plain.evaluate(NARROW).score, plain.evaluate(compressor.space.full).score
    built: list[list[int]] = []
    variant = SlimmableNetwork.variant

    def noting(network: SlimmableNetwork, widths: Amounts, **options: bool) -> nn.Module:
        built.append(widths.tolist())
        time.sleep(0.05)
        return variant(network, widths, **options)

    monkeypatch.setattr(SlimmableNetwork, "variant", noting)
    ahead.build_ahead(NARROW)
    found = ahead.evaluate(NARROW)
    assert found.score == expected[0]
    assert found.wall_s > 0.05  # building counts, whenever it was done
    ahead.build_ahead(NARROW)  # granted to somebody else
    assert ahead.evaluate(compressor.space.full).score == expected[1]
    assert ahead.evaluate(NARROW).score == expected[0]
    full = compressor.space.full_amounts.tolist()
    assert built == [[4, 6, 10]] * 2 + [full, [4, 6, 10]]


def test_what_cannot_be_built_ahead_fails_in_its_evaluation(
    target: ClassificationTarget, compressor: Compressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(target, compressor, "fidelity", EvaluationConfig())

    def failing(*_args: object, **_options: bool) -> nn.Module:
        raise MemoryError("no room")

    monkeypatch.setattr(SlimmableNetwork, "variant", failing)
    evaluator.build_ahead(NARROW)
    with pytest.raises(MemoryError, match="no room"):
        evaluator.evaluate(NARROW)
