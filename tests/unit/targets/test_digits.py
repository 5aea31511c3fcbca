from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from rl_compress.errors import TargetError
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.digits import digits
from rl_compress.targets.splits import check_splits
from rl_compress.variants.compressor import Compressor


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path))
    return tmp_path


def _tiny(**options: int) -> dict[str, torch.Tensor]:
    return digits(**{"width": 4, "epochs": 1, **options}).build().state_dict()


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_splits_are_disjoint_and_of_the_documented_sizes() -> None:
    target = digits()
    check_splits(target)
    sizes = {name: len(target.split(name)) for name in ("train", "calibration", "search", "test")}
    assert sizes == {"train": 988, "calibration": 179, "search": 269, "test": 359}
    image, label = target.split("train")[0]
    assert image.shape == (1, 8, 8)
    assert 0.0 <= image.min() <= image.max() <= 1.0
    assert 0 <= label < 10


def test_the_cnn_learns(cache: Path) -> None:
    target = digits(width=8, epochs=15)
    model = target.build()
    assert not model.training
    assert target.score(model, "test") > 95.0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "resnet", "mobilenet", "vit"])
def test_the_default_reaches_its_accuracy(cache: Path, model: str) -> None:
    target = digits(model)
    assert target.score(target.build(), "test") >= 97.5


def test_architecture_does_not_train(cache: Path) -> None:
    model = digits().architecture()
    assert not list(cache.iterdir())
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 6


@pytest.mark.parametrize("name", ["cnn", "resnet", "mobilenet", "vit"])
def test_networks_map_images_to_ten_logits(name: str) -> None:
    model = digits(name, width=4).architecture()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_same_seed_gives_the_same_weights(
    cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.random.get_rng_state()
    first = _tiny()
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path_factory.mktemp("other")))
    torch.manual_seed(5)
    assert _same(first, _tiny())
    assert not _same(first, _tiny(seed=1))


def test_images_are_fine_tuned_on_as_they_are() -> None:
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(digits().augment(images), images)


def test_the_second_build_comes_from_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _tiny()
    (file,) = cache.rglob("*.*")
    assert file.suffix == ".safetensors"

    def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim, "AdamW", fail)
    assert _same(first, _tiny())
    with pytest.raises(AssertionError, match="trained again"):
        _tiny(epochs=2)


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", None])
def test_a_damaged_cache_file_is_replaced(
    cache: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    first = _tiny()
    (file,) = cache.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert _same(first, _tiny())
    assert "damaged" in caplog.text
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING):
        _tiny()
    assert "RL_COMPRESS_CACHE" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resent"}, r"options\.model: .*'resent'; did you mean resnet\?"),
        ({"width": 0}, r"options\.width: must be a whole number from 1 on, but got 0"),
        ({"width": "8"}, r"options\.width"),
        ({"epochs": True}, r"options\.epochs"),
        ({"seed": -1}, r"options\.seed: must be a whole number from 0 on"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        digits(**options)


def test_depthwise_layers_of_the_mobilenet_are_cut_with_the_layer_before_them() -> None:
    target = digits("mobilenet", width=4)
    compressor = Compressor.prepare(target.architecture(), target.example_inputs(), SpaceConfig())

    (first,) = [g for g in compressor.groups if "stages.0.depthwise" in g.layers]
    assert first.prunable
    assert "stages.0.expand" in first.layers
    assert [group.name for group in compressor.groups if not group.prunable] == ["classifier"]


def test_heads_and_channels_of_the_transformer_are_found() -> None:
    target = digits("vit", width=4)
    compressor = Compressor.prepare(target.architecture(), target.example_inputs(), SpaceConfig())

    units = {group.name: group.num_units for group in compressor.groups if group.prunable}
    for block in range(4):
        assert units[f"blocks.{block}.attention.value"] == 4  # heads
        assert units[f"blocks.{block}.fc1"] == 64
    assert len(units) == 9  # and the features of a token, which all blocks share
    assert [group.name for group in compressor.groups if not group.prunable] == ["classifier"]
