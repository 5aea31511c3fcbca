"""The `fashion_mnist` target: 28 x 28 photographs of clothing in ten classes.

70000 labelled images in the format of MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017). They are read
from a folder, never downloaded: Debian and Ubuntu package them as `dataset-fashion-mnist`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.idx import read_idx
from rl_compress.targets.networks import PlainCNN, ResNet
from rl_compress.targets.options import choose, require_whole_numbers
from rl_compress.targets.pretrained import PretrainedTarget, PretrainingConfig
from rl_compress.targets.splits import digests, disjoint_splits

_PACKAGED = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""

_PARTS = ("train", "t10k")

_CLASSES = 10


def fashion_mnist(
    model: str = "resnet20",
    folder: str | None = None,
    width: int = 8,
    epochs: int = 10,
    train_samples: int | None = None,
    calibration_samples: int = 2000,
    search_samples: int = 5000,
    seed: int = 0,
) -> PretrainedTarget:
    """Make the Fashion-MNIST target.

    Calibration, search and train splits are cut from the training file; the test split is the test
    file. Training images that are in the test file too are left out.

    The default network has 69 thousand parameters. Its pre-training took nine minutes of one CPU
    core and reached a test accuracy of 93.1 %. With ``width=16``, stages of 16, 32 and 64 channels,
    it is the ResNet-20 of the literature (He et al., CVPR 2016), four times as large.

    Args:
        model: ``resnet20`` (three stages of three residual blocks) or ``cnn`` (six convolutions
            with BatchNorm).
        folder: Where the four IDX files are, compressed or not; by default where the package
            `dataset-fashion-mnist` puts them.
        width: Channels of the first stage; later ones have two and four times as many.
        epochs: Passes over the training split in pre-training.
        train_samples: Training images to use; all that are left by default.
        calibration_samples: Images of the calibration split.
        search_samples: Images of the search split.
        seed: Of the splits, the initial weights and the pre-training.

    Raises:
        TargetError: An option has a wrong value, or the files are not there.
    """
    network = choose("model", model, {"resnet20": _resnet20, "cnn": _cnn})
    require_whole_numbers(
        at_least=1,
        width=width,
        epochs=epochs,
        calibration_samples=calibration_samples,
        search_samples=search_samples,
    )
    require_whole_numbers(at_least=0, seed=seed)
    if train_samples is not None:
        require_whole_numbers(at_least=1, train_samples=train_samples)
    sizes = {"calibration": calibration_samples, "search": search_samples, "train": train_samples}
    files = _Files(_PACKAGED if folder is None else Path(folder).expanduser())
    return PretrainedTarget(
        key={
            "target": "fashion_mnist",
            "model": model,
            "width": width,
            "files": files.identity(),
            **{f"{name}_samples": size for name, size in sizes.items()},
        },
        architecture=lambda: network(width),
        load_splits=lambda: _splits(files, sizes, seed),
        pixel_scale=255.0,
        pretraining=PretrainingConfig(
            epochs=epochs, batch_size=128, max_shift=1, flip=True, seed=seed
        ),
    )


class _Files:
    """The four IDX files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._paths = {
            kind: _find(folder, f"{kind}-ubyte")
            for part in _PARTS
            for kind in (f"{part}-images-idx3", f"{part}-labels-idx1")
        }

    def identity(self) -> str:
        """Return a hash of the labels, which tells one collection of images from another."""
        found = hashlib.sha256()
        for part in _PARTS:
            found.update(read_idx(self._paths[f"{part}-labels-idx1"], 1).numpy().tobytes())
        return found.hexdigest()[:16]

    def read(self, part: str) -> tuple[Tensor, Tensor]:
        """Return images, shape ``(num_samples, 1, H, W)``, and classes of ``train`` or ``t10k``."""
        labels_path = self._paths[f"{part}-labels-idx1"]
        images, labels = read_idx(self._paths[f"{part}-images-idx3"], 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise TargetError(
                f"{labels_path}: must have a label for each of the {len(images)} images, "
                f"but has {len(labels)}; fetch the files again"
            )
        if len(labels) and int(labels.max()) >= _CLASSES:
            raise TargetError(
                f"{labels_path}: labels must be below {_CLASSES}, but the largest is "
                f"{int(labels.max())}; fetch the file again"
            )
        return images.unsqueeze(1), labels.long()


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise TargetError(
        f"target.options.folder: there is no {name} or {name}.gz in {folder}; install the data "
        f"with `apt install dataset-fashion-mnist`, or set folder to where the four files are"
    )


def _splits(
    files: _Files, sizes: Mapping[str, int | None], seed: int
) -> Mapping[str, TensorDataset]:
    test_images, test_labels = files.read("t10k")
    images, labels = files.read("train")
    in_test = set(digests(test_images))
    new = torch.tensor([digest not in in_test for digest in digests(images)], dtype=torch.bool)
    images, labels = images[new], labels[new]
    splits = disjoint_splits(images, labels, sizes, seed=seed)
    return {**splits, "test": TensorDataset(test_images, test_labels)}


def _resnet20(width: int) -> nn.Module:
    return ResNet(1, [width, 2 * width, 4 * width], blocks=3, classes=_CLASSES)


def _cnn(width: int) -> nn.Module:
    return PlainCNN(1, [width, width, 2 * width, 2 * width, 4 * width, 4 * width], _CLASSES)
