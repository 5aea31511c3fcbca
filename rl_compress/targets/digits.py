"""The `digits` target: scikit-learn's bundled handwritten digits, 8 x 8 pixels, ten classes.

Real data without a download (E. Alpaydin, C. Kaynak, UCI repository, 1998: 1797 scans).
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rl_compress.errors import TargetError
from rl_compress.targets.networks import PlainCNN, ResNet
from rl_compress.targets.pretrained import PretrainedTarget, PretrainingConfig
from rl_compress.targets.splits import disjoint_splits

_SIZES = {"train": 0.55, "calibration": 0.10, "search": 0.15, "test": 0.20}


def digits(
    model: str = "cnn", width: int = 16, epochs: int = 30, seed: int = 0
) -> PretrainedTarget:
    """Make the digits target.

    Args:
        model: ``cnn`` (six convolutions with BatchNorm) or ``resnet`` (six residual blocks).
        width: Channels of the first layers.
        epochs: Epochs of pre-training.
        seed: Of the splits, the initial weights and the pre-training.
    """
    networks = {"cnn": _cnn, "resnet": _resnet}
    if model not in networks:
        raise TargetError(f"target.options.model: must be cnn or resnet, but got {model!r}")

    def architecture() -> nn.Module:
        return networks[model](width)

    def data() -> tuple[Tensor, Tensor]:
        images, labels = load_digits(return_X_y=True)
        inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
        return inputs, torch.tensor(labels)

    return PretrainedTarget(
        key={"target": "digits", "model": model, "width": width, "seed": seed},
        architecture=architecture,
        load_splits=lambda: disjoint_splits(*data(), _SIZES, seed=seed),
        pretraining=PretrainingConfig(epochs=epochs, batch_size=64, max_shift=1, seed=seed),
    )


def _cnn(width: int) -> nn.Module:
    return PlainCNN(1, [width, width, 2 * width, 2 * width, 4 * width, 4 * width], 10)


def _resnet(width: int) -> nn.Module:
    return ResNet(1, [width, 2 * width, 4 * width], blocks=2, classes=10)
