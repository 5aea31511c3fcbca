"""Networks of other packages as targets: random weights, random images or tokens.

A job names it as ``zoo_target:network``, with options such as
``{name: "torchvision:resnet18", side: 64}``; see ``zoo_networks.py`` for the names.
"""

from __future__ import annotations

import torch
from torch.utils.data import Dataset, TensorDataset
from zoo_networks import build, example

from rl_compress.targets import ClassificationTarget

SIZES = {"train": 64, "calibration": 16, "search": 16, "test": 16}


def network(
    name: str, side: int | None = None, classes: int = 10, *, lively: bool = True
) -> ClassificationTarget:
    """Make the target.

    Args:
        name: Package and network, as ``timm:resnet10t``.
        side: Height and width of the images, by default those of the zoo.
        classes: Labels are drawn from so many.
        lively: Give every channel a part in the outputs, by running the network.
    """

    def samples(size: int, seed: int) -> Dataset:
        torch.manual_seed(seed)
        inputs = torch.cat([example(name, side) for _ in range(size)])
        return TensorDataset(inputs, torch.arange(size) % classes)

    splits = {split: samples(size, seed) for seed, (split, size) in enumerate(SIZES.items())}
    return ClassificationTarget(lambda: build(name, lively=lively), splits, batch_size=16)
