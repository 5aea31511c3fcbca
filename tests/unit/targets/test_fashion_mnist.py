from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_compress.errors import TargetError
from rl_compress.targets import fashion_mnist as module
from rl_compress.targets.fashion_mnist import fashion_mnist
from rl_compress.targets.idx import read_idx
from rl_compress.targets.splits import check_splits

_SMALL = {"width": 8, "epochs": 1, "calibration_samples": 20, "search_samples": 30}


def _idx(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + (values.astype(np.uint8).tobytes())
    )


def _write_files(folder: Path, *, compress: bool, classes: int = 10) -> None:
    random = np.random.default_rng(0)
    test = random.integers(0, 256, (40, 28, 28))
    train = random.integers(0, 256, (120, 28, 28))
    train[:3] = test[:3]  # leaked
    train[50] = train[51]  # twice
    for part, images in (("train", train), ("t10k", test)):
        labels = np.arange(len(images)) % classes
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = _idx(values)
            name = f"{part}-{kind}-ubyte"
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)


@pytest.fixture(params=[True, False], ids=["gzip", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    _write_files(tmp_path, compress=request.param)
    return tmp_path


def test_splits_leave_out_what_is_in_the_test_file_or_twice(folder: Path) -> None:
    target = fashion_mnist(folder=str(folder), **_SMALL)
    sizes = {name: len(target.split(name)) for name in ("train", "calibration", "search", "test")}
    assert sizes == {"train": 120 - 3 - 1 - 50, "calibration": 20, "search": 30, "test": 40}
    check_splits(target)
    image, label = target.split("test")[0]
    assert image.shape == (1, 28, 28)
    assert image.max() <= 1.0
    assert label == 0


def test_it_is_pretrained_and_cached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "cache"))
    target = fashion_mnist(folder=str(folder), train_samples=40, **_SMALL)
    assert len(target.split("train")) == 40
    first, second = target.build().state_dict(), target.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((tmp_path / "cache").rglob("fashion_mnist-*.safetensors"))) == 1


def test_resnet20_has_twenty_weighted_layers(folder: Path) -> None:
    model = fashion_mnist(folder=str(folder), **_SMALL).architecture()
    # Besides them, two 1 x 1 convolutions adapt the shortcuts.
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 20 + 2
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_missing_files_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGED", tmp_path)
    with pytest.raises(TargetError, match=r"folder: .*apt install dataset-fashion-mnist"):
        fashion_mnist()


def test_labels_must_fit_the_images_and_classes(tmp_path: Path) -> None:
    _write_files(tmp_path, compress=False, classes=11)
    with pytest.raises(TargetError, match="labels must be below 10, but the largest is 10"):
        fashion_mnist(folder=str(tmp_path), **_SMALL).split("train")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.zeros(7)))
    with pytest.raises(TargetError, match="each of the 40 images, but has 7"):
        fashion_mnist(folder=str(tmp_path), **_SMALL).split("train")


def test_splits_larger_than_the_data_are_refused(folder: Path) -> None:
    target = fashion_mnist(folder=str(folder))
    with pytest.raises(TargetError, match="116 distinct"):
        target.split("train")


@pytest.mark.parametrize("option", ["width", "train_samples", "search_samples"])
def test_wrong_options_are_named(folder: Path, option: str) -> None:
    with pytest.raises(TargetError, match=rf"target\.options\.{option}"):
        fashion_mnist(folder=str(folder), **{**_SMALL, option: 0})


def test_idx_values_keep_their_place(tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "file").write_bytes(_idx(values))
    assert np.array_equal(read_idx(tmp_path / "file", 3).numpy(), values)


_WHOLE = _idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG rubbish", "begins with 89504e47"),
        (_idx(np.arange(3)), "begins with 00000801"),
        (_WHOLE[:2] + b"\x0d" + _WHOLE[3:], "begins with 00000d03"),
        (_WHOLE[:10], "ends within the IDX header"),
        (_WHOLE[:-1], r"announces 24 bytes of data, shape \(2, 3, 4\), but 23 follow"),
        (_WHOLE + b"x", "but 25 follow"),
        (gzip.compress(_WHOLE, mtime=0)[:-12], "incomplete gzip"),
        (gzip.compress(_WHOLE, mtime=0)[:12] + b"\xff" * 20, "gzip"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(TargetError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_images_are_shifted_and_mirrored_in_fine_tuning(folder: Path) -> None:
    target = fashion_mnist(folder=str(folder), **_SMALL)
    images = torch.stack([target.split("train")[i][0] for i in range(16)])
    given = images.clone()
    torch.manual_seed(0)
    varied = [target.augment(images) for _ in range(40)]
    assert torch.equal(images, given)
    assert all(batch.shape == images.shape for batch in varied)
    # By a pixel each way there are nine shifts, mirrored or not; what leaves the image is gone.
    assert 6 <= len({batch.numpy().tobytes() for batch in varied}) <= 18
    assert all(batch.double().sum() <= images.double().sum() + 1e-6 for batch in varied)
