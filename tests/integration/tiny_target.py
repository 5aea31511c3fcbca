"""A target that is built, trained and scored in no time, and variants of it that go wrong.

Jobs name its factories as ``tiny_target:tiny``; the folder is on the path of the tests and, through
``PYTHONPATH``, of the processes that they start.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.targets import ClassificationTarget

CLASSES = 4
SIZES = {"train": 320, "calibration": 64, "search": 128, "test": 128}

NOT_CALLABLE = 3


class TinyNet(nn.Module):
    """Three convolutions and two linear layers, with or without BatchNorm."""

    def __init__(self, *, batchnorm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, 20, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(12) if batchnorm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(16) if batchnorm else nn.Identity()
        self.bn3 = nn.BatchNorm2d(20) if batchnorm else nn.Identity()
        self.fc1 = nn.Linear(20 * 2 * 2, 24)
        self.fc2 = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class TinyTarget(ClassificationTarget):
    """Gaussian blobs, a class in each place, and a network trained on them from a fixed seed."""

    def __init__(
        self,
        *,
        batchnorm: bool = True,
        sleep_s: float = 0.0,
        train_sleep_s: float = 0.0,
        build_sleep_s: float = 0.0,
        fails: bool = False,
        hang_s: float = 0.0,
        kills: bool = False,
        pids: str | None = None,
        splits: Mapping[str, Dataset[Any]] | None = None,
    ) -> None:
        super().__init__(self._train, splits or blobs())
        self._batchnorm = batchnorm
        self._sleep_s = {"search": sleep_s, "train": train_sleep_s}
        self._build_sleep_s = build_sleep_s
        self._fails = fails
        self._hang_s = hang_s
        self._kills = kills
        self._pids = pids

    def architecture(self) -> nn.Module:
        return TinyNet(batchnorm=self._batchnorm)

    def batches(
        self, split: str, *, shuffle_seed: int | None = None, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self._pids and split == "search":
            Path(self._pids, str(os.getpid())).touch()
        time.sleep(self._sleep_s.get(split, 0.0))
        yield from super().batches(split, shuffle_seed=shuffle_seed, batch_size=batch_size)

    def score(self, model: nn.Module, split: str) -> float:
        if self._fails and split == "search" and is_cursed(model):
            raise ValueError("this variant is cursed")
        if self._hang_s and split == "search" and is_cursed(model):
            time.sleep(self._hang_s)
        if self._kills and split == "search" and is_deadly(model):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory is short
        return super().score(model, split)

    def _train(self) -> nn.Module:
        time.sleep(self._build_sleep_s)
        torch.manual_seed(0)
        model = self.architecture()
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        for epoch in range(6):
            for inputs, labels in ClassificationTarget.batches(
                self, "train", shuffle_seed=epoch, batch_size=32
            ):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        return model


def is_cursed(model: nn.Module) -> bool:
    """Pick about a third of the variants, by their widths; the uncompressed one is not in it."""
    assert isinstance(model, TinyNet)
    return (model.fc1.out_features + model.conv1.out_channels) % 3 == 1


def is_deadly(model: nn.Module) -> bool:
    """Pick about one in eight of the variants, by their widths."""
    assert isinstance(model, TinyNet)
    return (model.fc1.out_features + model.conv1.out_channels) % 8 == 3


def blobs() -> dict[str, Dataset[Any]]:
    """Make noisy 8 x 8 images, with a blob in the quarter that is the class."""
    generator = torch.Generator().manual_seed(0)
    total = sum(SIZES.values())
    labels = torch.arange(total) % CLASSES
    spot = torch.stack([labels % 2, labels // 2], dim=1) * 4.0 + 1.5
    spot = spot + torch.randn(total, 2, generator=generator)
    grid = torch.arange(8.0)
    distance = (grid[None, :, None] - spot[:, 0, None, None]) ** 2
    distance = distance + (grid[None, None, :] - spot[:, 1, None, None]) ** 2
    inputs = torch.exp(-distance / 3) + 0.4 * torch.randn(total, 8, 8, generator=generator)
    splits: dict[str, Dataset[Any]] = {}
    start = 0
    for name, size in SIZES.items():
        splits[name] = TensorDataset(
            inputs[start : start + size, None], labels[start : start + size]
        )
        start += size
    return splits


def tiny(
    batchnorm: bool = True,
    sleep_s: float = 0.0,
    train_sleep_s: float = 0.0,
    build_sleep_s: float = 0.0,
    fails: bool = False,
    hang_s: float = 0.0,
    kills: bool = False,
    pids: str | None = None,
    ballast: str = "",
) -> TinyTarget:
    """Make the sound target.

    Args:
        batchnorm: Whether the network has BatchNorm.
        sleep_s: Added to each pass over the search split, so to each evaluation.
        train_sleep_s: Added to each pass over the training split, so to each epoch.
        build_sleep_s: Added to the building of the model.
        fails: Whether scoring raises for some variants.
        hang_s: How long scoring hangs for those.
        kills: Whether scoring kills the process for some variants.
        pids: Folder in which every process that evaluates leaves a file named by its id.
        ballast: Makes what workers are told large, and nothing else.
    """
    del ballast
    return TinyTarget(
        batchnorm=batchnorm,
        sleep_s=sleep_s,
        train_sleep_s=train_sleep_s,
        build_sleep_s=build_sleep_s,
        fails=fails,
        hang_s=hang_s,
        kills=kills,
        pids=pids,
    )


def overlapping() -> TinyTarget:
    """Search and test split share samples."""
    splits = blobs()
    splits["test"] = splits["search"]
    return TinyTarget(splits=splits)


def nan_data() -> TinyTarget:
    """One pixel of the calibration split is NaN."""
    splits = blobs()
    splits["calibration"].tensors[0][3, 0, 2, 2] = torch.nan  # type: ignore[attr-defined]
    return TinyTarget(splits=splits)


class _NanWeights(TinyTarget):
    def build(self) -> nn.Module:
        model = TinyNet()
        with torch.no_grad():
            model.conv2.weight[0, 0, 0, 0] = torch.nan
        return model.eval()


def nan_weights() -> TinyTarget:
    """One weight is NaN."""
    return _NanWeights()


class _Unprunable(TinyTarget):
    def build(self) -> nn.Module:
        return self.architecture().eval()

    def architecture(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def unprunable() -> TinyTarget:
    """A single layer, whose outputs are the model's."""
    return _Unprunable()


class _VersionedNet(TinyNet):
    """Loads as torchvision's MNASNet does: not without the version that was saved."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, local: Any, *rest: Any) -> None:
        if local.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local.get('version')}")
        super()._load_from_state_dict(state, prefix, local, *rest)


class _Versioned(TinyTarget):
    def architecture(self) -> nn.Module:
        return _VersionedNet()


def versioned() -> TinyTarget:
    """The network looks at versions when it is loaded."""
    return _Versioned()


class _CountingNet(TinyNet):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class _Counting(TinyTarget):
    def build(self) -> nn.Module:
        return self.architecture().eval()

    def architecture(self) -> nn.Module:
        return _CountingNet()


def counting() -> TinyTarget:
    """The network's state is more than tensors."""
    return _Counting()


def _in_worker() -> bool:
    return Path(sys.argv[0]).name == "default_worker.py"


def _in_actor() -> bool:
    import ray

    return _in_worker() and ray.get_runtime_context().get_actor_id() is not None


def raises_in_workers() -> TinyTarget:
    """The factory fails in Ray's workers only."""
    if _in_worker():
        raise RuntimeError("no disk there")
    return TinyTarget()


def dies_in_workers() -> TinyTarget:
    """The factory ends the process there."""
    if _in_worker():
        os._exit(3)
    return TinyTarget()


def raises_in_actors() -> TinyTarget:
    """The factory fails in env runners only."""
    if _in_actor():
        raise RuntimeError("no disk there")
    return TinyTarget()


def dies_in_actors() -> TinyTarget:
    """The factory ends the process there."""
    if _in_actor():
        os._exit(3)
    return TinyTarget()


def hangs_in_actors() -> TinyTarget:
    """The factory never returns there."""
    if _in_actor():
        time.sleep(3600)
    return TinyTarget()


def raises() -> TinyTarget:
    """The factory fails."""
    raise RuntimeError("no luck today")


def no_target() -> str:
    """The factory returns something else."""
    return "a target"


class _AlwaysFailing(TinyTarget):
    def score(self, model: nn.Module, split: str) -> float:
        raise ValueError("this target is cursed")


def always_failing() -> TinyTarget:
    """Scoring raises for every variant."""
    return _AlwaysFailing()
