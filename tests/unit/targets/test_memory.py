from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from ray import cloudpickle
from torch import nn

from rl_compress.agent.rllib.standby import portable_factory
from rl_compress.errors import TargetError
from rl_compress.targets.factory import HELD, TargetConfig, build_model, make_target
from rl_compress.targets.memory import held_target

DATA = {
    "train": (torch.arange(100.0)[:, None], torch.arange(100) % 4),
    "test": (torch.arange(100.0, 120.0)[:, None], torch.arange(20) % 4),
}


def _model(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, width), nn.BatchNorm1d(width), nn.Linear(width, 4))


def test_the_target_is_the_model_which_stays_as_it_is() -> None:
    model = _model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with held_target(model, DATA) as config:
        target = make_target(config)
        built = build_model(target, config)
        for value in built.state_dict().values():
            value.zero_()
        again = build_model(target, config)
    assert model.training
    for state in (model.state_dict(), again.state_dict()):
        assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_it_is_named_by_what_model_and_data_are() -> None:
    def digests(model: nn.Module, **data: object) -> dict[str, str]:
        with held_target(model, {**DATA, **data}) as config:
            return config.options

    one, wider, other = _model(), _model(7), _model()
    with torch.no_grad():
        other[0].bias[0] += 1  # type: ignore[index]
    own = digests(one)
    assert own == digests(_model())
    assert digests(wider)["model"] != own["model"] != digests(other)["model"]
    assert digests(other)["data"] == own["data"]
    assert digests(one, test=(DATA["test"][0] + 1, DATA["test"][1]))["data"] != own["data"]


def test_workers_have_shapes_and_what_an_evaluation_reads() -> None:
    with held_target(_model(), DATA) as config:
        own = make_target(config)
        own_search = own.split("search").tensors  # type: ignore[attr-defined]
        sent = cloudpickle.dumps(portable_factory(config))
        received = cloudpickle.loads(sent)(**config.options)

        for one, other in zip(own_search, received.split("search").tensors, strict=True):
            assert torch.equal(one, other)
        assert len(received.split("test")) == 0
        assert received.class_axis(torch.zeros(2, 4)) == 1
        built = received.architecture()
        assert all(value.is_meta for value in built.parameters())
        assert [*built.state_dict()] == [*_model().state_dict()]
    with pytest.raises(TargetError, match="reach workers of the same machine only"):
        cloudpickle.loads(sent)(**config.options)


def test_workers_have_batches_of_the_same_form() -> None:
    def some(count: int) -> dict[str, torch.Tensor]:
        x = torch.arange(float(count))[:, None]
        return {"x": x, "labels": torch.arange(count) % 4, "mask": x > 3}

    data = {"train": some(100), "test": [{"x": torch.ones(1), "label": 0}] * 3, "search": some(9)}
    with held_target(_model(), data) as config:
        own = make_target(config)
        received = cloudpickle.loads(cloudpickle.dumps(portable_factory(config)))(**config.options)
        for name in ("calibration", "search"):
            pairs = zip(own.batches(name), received.batches(name), strict=True)
            for one, other in pairs:
                parts = zip(own.input_tensors(one), received.input_tensors(other), strict=True)
                assert all(torch.equal(mine, theirs) for mine, theirs in parts)
                assert torch.equal(own.labels(one), received.labels(other))
        assert list(next(iter(received.batches("search")))[0]) == ["x", "mask"]
        assert len(received.split("test")) == 0
        assert received.class_axis(torch.zeros(2, 4)) == 1


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with held_target(_model(), DATA) as config:
        portable_factory(config)
        assert list(tmp_path.rglob("data.safetensors"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(TargetError, match="a program that held it in memory; give it again"):
        make_target(config)


def test_another_model_is_not_taken_for_it() -> None:
    with (
        held_target(_model(), DATA) as config,
        held_target(_model(7), DATA),
        pytest.raises(TargetError, match="another model, or other data, is held"),
    ):
        make_target(config)


def test_what_cannot_be_copied_or_sent_is_refused() -> None:
    model = _model()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with (
        pytest.raises(TargetError, match="model: cannot be copied, nor sent to workers"),
        held_target(model, DATA),
    ):
        pass
    lock, model = threading.Lock(), _model()
    model.odd = lambda: lock  # type: ignore[assignment]
    with (
        held_target(model, DATA) as config,
        pytest.raises(TargetError, match="model: it cannot be sent to Ray workers"),
    ):
        portable_factory(config)
    with (
        pytest.raises(TargetError, match=r"model: must be a torch.nn.Module, but got str"),
        held_target("net", DATA),  # type: ignore[arg-type]
    ):
        pass


def test_the_name_alone_says_what_to_give() -> None:
    with pytest.raises(TargetError, match=r"load_compressed\(folder, model=…\)"):
        make_target(TargetConfig(factory=HELD))
