from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from pydantic import ValidationError
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.errors import ConfigError
from rl_compress.targets.target import SPLITS, ClassificationTarget, Target
from rl_compress.training.layerwise import Truncated, find_stages
from rl_compress.training.loop import Course
from rl_compress.training.pretraining import PretrainingConfig, _parts, pretrain

CPU = torch.device("cpu")


def _target(name: str = "plain") -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(90, 1, 8, 8, generator=generator)
    # Brightness of the left half decides: something that can be learned.
    labels = (images[:, 0, :, :4].mean(dim=(1, 2)) > 0).long()
    data = TensorDataset(images, labels)
    return ClassificationTarget(lambda: zoo.make(name), dict.fromkeys(SPLITS, data))


def _config(**changes: Any) -> PretrainingConfig:
    values = {"mode": "layerwise", "epochs": 3, "stage_epochs": 2, "batch_size": 32, **changes}
    return PretrainingConfig(**values)


def _run(
    folder: Path, model: nn.Module, target: Target, config: PretrainingConfig, **more: Any
) -> list[Course]:
    return pretrain(model, target, config, folder, device=CPU, **more)


@pytest.mark.parametrize("mode", ["finetune", "layerwise"])
def test_training_lowers_the_held_out_loss(tmp_path: Path, mode: str) -> None:
    target, model = _target(), zoo.make("plain")
    courses = _run(tmp_path, model, target, _config(mode=mode, epochs=12))
    first, whole = courses[0], courses[-1]
    assert whole.scores[whole.kept_epoch] == max(whole.scores)
    assert max(whole.scores) > 0.9 * first.scores[1]
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


class _Bright(ClassificationTarget):
    """Its training samples become brighter, which those held out must not."""

    def augment(self, inputs: torch.Tensor) -> torch.Tensor:
        assert not inputs.max() > 50
        return inputs + 100


def test_samples_trained_on_are_augmented_and_those_held_out_are_not(tmp_path: Path) -> None:
    data = _target().split("train")
    target = _Bright(lambda: zoo.make("plain"), dict.fromkeys(SPLITS, data))
    seen: list[tuple[bool, bool]] = []
    model = zoo.make("plain")
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, bool(inputs[0].max() > 50)))
    )
    _run(tmp_path, model, target, _config(mode="finetune", epochs=1))
    assert (True, True) in seen
    assert all(training == bright for training, bright in seen)


@pytest.mark.parametrize(
    ("mode", "after"), [("finetune", 3), ("layerwise", 1), ("layerwise", 4), ("layerwise", 7)]
)
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, mode: str, after: int
) -> None:
    target, config = _target("residual"), _config(mode=mode)
    uninterrupted = zoo.make("residual")
    _run(tmp_path / "whole", uninterrupted, target, config)
    calls = 0

    def interrupt(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    model = zoo.make("residual")
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", model, target, config, progress=interrupt)
    # As in release 0.1.0, whose trainings are taken up.
    kept = {"network", "optimizer", "schedule", "best", "best_epoch", "losses", "held_out_losses"}
    for file in (tmp_path / "parts").iterdir():
        assert set(torch.load(file, weights_only=True)) == kept
    resumed = zoo.make("residual")  # a new process begins with the target's own weights
    _run(tmp_path / "parts", resumed, target, config)
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_stages_are_trained_from_the_inputs_on_and_lower_ones_are_frozen(tmp_path: Path) -> None:
    target, model = _target(), zoo.make("plain")
    before = copy.deepcopy(model.state_dict())
    seen: list[set[str]] = []

    def note(_done: int, _total: int) -> None:
        now = model.state_dict()
        changed = {
            name.partition(".")[0] for name in now if not torch.equal(now[name], before[name])
        }
        if not seen or changed != seen[-1]:
            seen.append(changed)

    _run(tmp_path, model, target, _config(), progress=note)
    first, second, third = {"conv1", "bn1"}, {"conv2", "bn2"}, {"fc1"}
    assert seen[:4] == [set(), first, first | second, first | second | third]
    assert seen[-1] == first | second | third | {"fc2"}


def test_frozen_stages_stay_as_they_are_and_slow_ones_move_a_little(tmp_path: Path) -> None:
    target = _target()
    moved = {}
    for lower in ("frozen", "slow"):
        model = zoo.make("plain")
        config = _config(stages=["conv2", "fc1"], lower_stages=lower, epochs=1)
        states = []

        def note(_d: int, _t: int, model: nn.Module = model, states: list[Any] = states) -> None:
            states.append(model.conv1.weight.detach().clone())  # type: ignore[union-attr, operator]

        _run(tmp_path / lower, model, target, config, progress=note)
        # Progress is told at the start of each stage and after each of its two epochs.
        moved[lower] = float((states[5] - states[3]).abs().max())
    assert moved["frozen"] == 0
    assert moved["slow"] > 0


def test_fresh_weights_are_drawn_from_the_seed(tmp_path: Path) -> None:
    states = []
    for number, seed in enumerate((0, 0, 1)):
        model = zoo.make("plain", seed=number)
        config = _config(mode="finetune", fresh=True, seed=seed, epochs=1)
        _run(tmp_path / str(number), model, _target(), config)
        states.append(model.fc1.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_training_ends_early_when_nothing_gets_better(tmp_path: Path) -> None:
    config = _config(mode="finetune", epochs=50, patience=2, learning_rate=1.0)
    (course,) = _run(tmp_path, zoo.make("plain"), _target(), config)
    assert course.epoch < 50
    assert course.epoch - course.best_epoch == 2


class _Diverging(ClassificationTarget):
    """Its loss is NaN from the third epoch on, with two batches to train with and one held out."""

    calls = 0

    def loss(self, outputs: Any, labels: Any) -> Any:
        self.calls += 1
        loss = super().loss(outputs, labels)
        # One more batch tells that there is a loss.
        return loss if self.calls <= 1 + 2 * 3 or loss is None else loss * math.nan


def test_divergence_ends_with_the_best_epoch_before(tmp_path: Path) -> None:
    data = {name: _target().split(name) for name in SPLITS}
    model, config = zoo.make("plain"), _config(mode="finetune", epochs=9, batch_size=64)
    target = _Diverging(lambda: zoo.make("plain"), data)
    (course,) = _run(tmp_path, model, target, config)
    assert course.epoch == 2
    assert math.isnan(course.losses[2])
    best = torch.load(tmp_path / "whole.pt", weights_only=True)["best"]
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in best.values())


def test_held_out_samples_are_not_trained_on() -> None:
    parts: Any = _parts(_target().split("train"), 0.2, seed=3)
    trained, held = ({row.sum().item() for row in part.tensors[0]} for part in parts)
    assert len(held) == 18
    assert len(trained | held) == 90
    assert not trained & held


@pytest.mark.parametrize(
    ("name", "first", "count"), [("plain", "conv2", 3), ("residual", "block1.conv1", 6)]
)
def test_stages_end_where_the_next_layer_begins(name: str, first: str, count: int) -> None:
    stages = find_stages(zoo.make(name), zoo.EXAMPLE, None, CPU)
    assert stages[0] == first
    assert len(stages) == count


def test_a_truncated_network_stops_at_its_layer() -> None:
    model = zoo.make("plain")
    truncated = Truncated(model, "conv2", zoo.EXAMPLE, 5)
    inputs = torch.randn(3, 1, 8, 8)
    expected = truncated.head(torch.relu(model.bn1(model.conv1(inputs))).mean(dim=(2, 3)))
    torch.testing.assert_close(truncated(inputs), expected)


def test_bad_input_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretraining\.stages: the model has no layer 'conv9'"):
        _run(tmp_path, zoo.make("plain"), _target(), _config(stages=["conv9"]))
    with pytest.raises(ValidationError, match="stages are for mode: layerwise"):
        _config(mode="finetune", stages=["conv2"])

    class Silent(ClassificationTarget):
        def loss(self, outputs: Any, labels: Any) -> Any:
            return None

    data = _target().split("train")
    silent = Silent(lambda: zoo.make("plain"), dict.fromkeys(SPLITS, data))
    with pytest.raises(ConfigError, match=r"pretraining\.mode: the target has no loss"):
        _run(tmp_path, zoo.make("plain"), silent, _config(mode="finetune"))


def test_nothing_happens_by_default(tmp_path: Path) -> None:
    model = zoo.make("plain")
    before = copy.deepcopy(model.state_dict())
    assert _run(tmp_path / "none", model, _target(), PretrainingConfig()) == []
    assert not (tmp_path / "none").exists()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
