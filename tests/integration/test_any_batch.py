"""Models of several inputs, of keyword inputs and with data that streams, end to end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import read_records
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import rl_compress
from rl_compress.export import delivery
from rl_compress.export.format import Delivered
from rl_compress.monitor import SilentMonitor
from rl_compress.targets import SPLITS, Target
from rl_compress.targets.batches import NestedDataset

ASKED: dict[str, Any] = {
    "budget": {"params": 0.6},
    "evaluations": 4,
    "finetuning": {"epochs": 1},
    "monitor": SilentMonitor(),
}
SIZES = {"train": 96, "calibration": 32, "search": 32, "test": 32}


class Output(OrderedDict[str, Any]):
    """A dictionary whose entries are attributes, as those of Hugging Face are."""

    __getattr__ = OrderedDict.__getitem__


class TwoInputs(nn.Module):
    """An image and some numbers, by place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.dense = nn.Linear(3, 10)
        self.head = nn.Linear(22, 4)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        seen = torch.relu(self.bn(self.conv(image))).mean(dim=(2, 3))
        return self.head(torch.cat([seen, torch.relu(self.dense(numbers))], dim=1))


class Words(nn.Module):
    """Tokens and a mask, by keyword in any order; the outputs are named, the logits last."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.hidden = nn.Linear(16, 24)
        self.head = nn.Linear(24, 4)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, scale: float | None = None
    ) -> Output:
        mask = attention_mask.unsqueeze(-1).float()
        hidden = torch.relu(self.hidden(self.embedding(input_ids)))
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return Output(length=mask.sum(dim=(1, 2)), logits=self.head(pooled))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean(dim=(2, 3))
        return self.head(x), x.sum(dim=1)


class Stream(IterableDataset[Any]):
    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self._seed)
        for number in range(self._count):
            yield torch.randn(1, 8, 8, generator=generator), number % 4


def _two_inputs() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    total = sum(SIZES.values())
    parts = torch.randn(total, 1, 8, 8), torch.randn(total, 3), torch.arange(total) % 4
    cut = zip(*(part.split(list(SIZES.values())) for part in parts), strict=True)
    data: dict[str, Any] = dict(zip(SIZES, cut, strict=True))
    # As tensors, and as samples of three parts.
    data["train"] = TensorDataset(*data["train"])
    data["test"] = [tuple(sample) for sample in zip(*data["test"], strict=True)]
    return TwoInputs(), data


def _dictionaries() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)

    def some(count: int) -> dict[str, Tensor]:
        mask = (torch.arange(6) < torch.randint(2, 7, (count, 1))).long()
        tokens = torch.randint(20, (count, 6)) * mask
        return {"attention_mask": mask, "labels": torch.arange(count) % 4, "input_ids": tokens}

    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    data: dict[str, Any] = {"train": some(160), "test": NestedDataset(some(32))}
    data["test"] = DataLoader(data["test"], batch_size=16, collate_fn=collate)
    return Words(), data


def _streams() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    return Plain(), {"train": DataLoader(Stream(0, 160), batch_size=16), "test": Stream(1, 32)}


SPARSE = {"space": {"pruning": {"structure": "weights", "importance": "contribution"}}}


@pytest.mark.parametrize(
    ("make", "algorithm", "more"),
    [
        (_two_inputs, "random", {}),
        (
            _dictionaries,
            "evolution",
            {
                "space": {
                    "protect": [],
                    "quantization": {"weight_bits": [4, 8], "activation_bits": 8},
                }
            },
        ),
        (_streams, "random", {}),
        (_dictionaries, "random", SPARSE),
    ],
)
def test_it_is_searched_delivered_and_loaded(
    make: Any, algorithm: str, more: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make()
    saved: list[nn.Module] = []
    save = delivery.save_artifact

    def keep(directory: Path, delivered: Delivered, *others: Any) -> Any:
        saved.append(delivered.model)
        return save(directory, delivered, *others)

    monkeypatch.setattr(delivery, "save_artifact", keep)
    # Exporting takes seconds: once by place, once by keyword.
    onnx = make is not _streams and more is not SPARSE
    asked = {**ASKED, "export": {"onnx": onnx}, **more}
    rl_compress.check(model=model, data=data, **asked)
    result = rl_compress.search(
        model=model, data=data, output=tmp_path / "run", search={"algorithm": algorithm}, **asked
    )
    assert len(read_records(result.directory)) == 4
    loaded = rl_compress.load_compressed(result.directory / "best", model=model)

    inputs: Any = {
        TwoInputs: (torch.randn(3, 1, 8, 8), torch.randn(3, 3)),
        Words: {"input_ids": torch.ones(3, 6).long(), "attention_mask": torch.ones(3, 6).long()},
        Plain: (torch.randn(3, 1, 8, 8),),
    }[type(model)]
    with torch.no_grad():
        found, expected = (
            net(**inputs) if isinstance(inputs, dict) else net(*inputs)
            for net in (loaded, saved[-1])
        )
    if isinstance(found, Output):
        found, expected = found.logits, expected.logits
    assert torch.equal(torch.as_tensor(found[0]), torch.as_tensor(expected[0]))
    manifest = result.manifest
    assert (manifest.onnx_max_error is not None) == onnx
    names = [spec.name for spec in manifest.inputs]
    by_name = isinstance(inputs, dict)
    assert sorted(map(str, names)) == (sorted(inputs) if by_name else ["None"] * len(inputs))


class Own(Target):
    """A target whose batches nobody knows but itself."""

    score_name = "agreement"

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Words().eval()

    def split(self, name: str) -> Dataset[Any]:
        generator = torch.Generator().manual_seed(SPLITS.index(name))
        tokens = torch.randint(20, (32, 6), generator=generator)
        return TensorDataset(torch.arange(32) % 4, tokens)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        _, tokens = batch
        return model(tokens, attention_mask=torch.ones_like(tokens))["logits"]

    def labels(self, batch: Any) -> Tensor:
        return batch[0]

    def score(self, model: nn.Module, split: str) -> float:
        with torch.no_grad():
            found = [self.forward(model, batch).argmax(dim=1) for batch in self.batches(split)]
        return float((torch.cat(found) == 0).double().mean())


def test_a_target_of_ones_own_says_how_its_model_is_called(tmp_path: Path) -> None:
    values = {key: value for key, value in ASKED.items() if key not in ("evaluations", "monitor")}
    job = rl_compress.Job(
        name="own",
        export={"onnx": False},  # type: ignore[arg-type]
        target={"factory": "test_any_batch:Own"},  # type: ignore[arg-type]
        search={"algorithm": "random", "evaluations": 4},  # type: ignore[arg-type]
        **values,
    )
    result = rl_compress.search(job, tmp_path / "run", monitor=SilentMonitor())
    assert sorted(str(spec.name) for spec in result.manifest.inputs) == [
        "attention_mask",
        "input_ids",
    ]
    rl_compress.load_compressed(result.directory / "best")
