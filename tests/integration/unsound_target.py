"""Targets with something wrong that a run would find late: in scoring, training or loading.

Jobs name its one factory, ``unsound_target:unsound``, with the fault as an option.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_target import CLASSES, TinyNet, TinyTarget, blobs
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.targets import SPLITS, ClassificationTarget, Target

_made: list[str] = []
"""Targets made in this process."""


def _with_labels(change: Callable[[Tensor], Tensor], split: str = "search") -> dict[str, Dataset]:
    splits = blobs()
    inputs, labels = splits[split].tensors  # type: ignore[attr-defined]
    splits[split] = TensorDataset(inputs, change(labels))
    return splits


def _overflowing() -> dict[str, Dataset]:
    splits = blobs()
    splits["calibration"].tensors[0][40].mul_(1e38)  # type: ignore[attr-defined]
    return splits


LABELS: dict[str, Callable[[], dict[str, Dataset]]] = {
    "out of range": lambda: _with_labels(lambda labels: labels + (labels == 3)),
    "negative": lambda: _with_labels(lambda labels: labels - 1, "train"),
    "one-hot": lambda: _with_labels(lambda labels: torch.eye(CLASSES)[labels].long(), "test"),
    "column": lambda: _with_labels(lambda labels: labels[:, None], "calibration"),
    "floats": lambda: _with_labels(lambda labels: labels.float()),
    "renumbered": lambda: _with_labels(lambda labels: (labels + 1) % CLASSES),
    "overflow": _overflowing,
}


class _Items(Dataset):
    """Samples that are no tensors in memory, one of them damaged."""

    def __init__(self, data: TensorDataset, damaged: int) -> None:
        self._data, self._damaged = data, damaged

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        if index == self._damaged:
            raise OSError("image truncated")
        return self._data[index]


class _Noisy(TinyNet):
    """Dropout that does not ask for the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), training=True)


class _Counting(TinyNet):
    """Counts its calls in a buffer, by assignment and in place, and makes a table when asked."""

    def __init__(self, *, batchnorm: bool = True) -> None:
        super().__init__(batchnorm=batchnorm)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.seen += len(x)
        if self.scale is None:
            self.scale = torch.ones(1, 1, 8, 8)
        return super().forward(x * self.scale)


class _Remembering(TinyNet):
    """Keeps what it computes by in a plain attribute, which no file has."""

    shift = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


NETWORKS = {
    "noise": _Noisy,
    "counter": _Counting,
    "inference": _Counting,
    "attribute": _Remembering,
}


class _Unsound(TinyTarget):
    def __init__(self, fault: str) -> None:
        splits = LABELS[fault]() if fault in LABELS else blobs()
        if fault == "item":
            splits["train"] = _Items(splits["train"], 319)  # type: ignore[arg-type]
        super().__init__(splits=splits)
        self.fault = fault

    def architecture(self) -> nn.Module:
        if self.fault == "architecture":
            return nn.Sequential(TinyNet())
        return NETWORKS.get(self.fault, TinyNet)()

    def build(self) -> nn.Module:
        if self.fault == "untrained":
            torch.manual_seed(1)
            return self.architecture().eval()
        trained = TinyTarget().build()
        model = TinyNet() if self.fault == "architecture" else self.architecture()
        if self.fault in ("factory", "architecture", "attribute"):
            # No plain data, so that loading needs the factory.
            model.note = lambda: None
        model.load_state_dict(trained.state_dict(), strict=False)
        if self.fault == "attribute":
            model.shift = 1.0
        return model.eval()

    def score(self, model: nn.Module, split: str) -> float:
        if self.fault == "nan score":
            return float("nan")
        if self.fault == "no score" and split == "train":
            raise KeyError(split)
        if self.fault == "all classes" and self._num_classes(split) < CLASSES:
            raise ValueError("this score needs samples of every class")
        if self.fault == "score" and model.conv1.out_channels < 12:
            raise ValueError("bad shape")
        if self.fault == "inference":
            with torch.inference_mode():
                return super().score(model, split)
        return super().score(model, split)

    def _num_classes(self, split: str) -> int:
        return len(torch.cat([labels for _, labels in self.batches(split)]).unique())

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.fault == "loss":
            raise RuntimeError("no loss today")
        return super().loss(outputs, labels)

    def augment(self, inputs: Tensor) -> Tensor:
        if self.fault == "augment":
            raise IndexError("cropped too far")
        return super().augment(inputs)


def tagger() -> ClassificationTarget:
    """Make a sound target that tags every word of a sentence: outputs (B, T, C), labels int32."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(120, 6, 8, generator=generator)
    tags = words[..., :3].argmax(-1).int()
    parts = [TensorDataset(words[n::4], tags[n::4]) for n in range(4)]
    splits = dict(zip(SPLITS, parts, strict=True))

    def build() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        with torch.no_grad():  # the first three units pass the word on, the others disturb a little
            model[0].weight[:3] = 4 * torch.eye(3, 8)
            model[2].weight.mul_(0.1)[:, :3] += torch.eye(3)
        return model

    return ClassificationTarget(build, splits)


class _Values(Target):
    """A regression that is no better than the mean, or whose labels differ in shape."""

    score_name = "r2"

    def __init__(self, fault: str) -> None:
        self._columns = fault == "columns"

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)).eval()

    def split(self, name: str) -> Dataset:
        generator = torch.Generator().manual_seed(len(name))
        inputs = torch.randn(40, 6, generator=generator)
        values = inputs.sum(1) * 3
        in_columns = self._columns and name == "test"
        return TensorDataset(inputs, values[:, None] if in_columns else values)

    def score(self, model: nn.Module, split: str) -> float:
        inputs, values = self.split(split).tensors  # type: ignore[attr-defined]
        with torch.no_grad():
            errors = model(inputs)[:, 0] - values
        return 1.0 - float(errors.square().mean() / values.var(correction=0))


def unsound(fault: str) -> Target:
    """Make a target with a fault."""
    if fault == "factory":
        _made.append(fault)
        if len(_made) > 1:
            raise RuntimeError("the download link has expired")
    return _Values(fault) if fault in ("columns", "no r2") else _Unsound(fault)
