from __future__ import annotations

import ast
from collections import UserDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import rl_compress
from rl_compress.errors import TargetError
from rl_compress.model.nested import arguments_of, joined, mapped, num_samples
from rl_compress.targets import SPLITS, ClassificationTarget, Target, TargetConfig, as_dataset
from rl_compress.targets.batches import batches_of, moved, parted, picked
from rl_compress.targets.factory import make_target

ONE, TWO, LABELS = torch.arange(6.0)[:, None], torch.arange(12.0).view(6, 2), torch.arange(6) % 2
Pair = namedtuple("Pair", "inputs labels")


class Encoding(UserDict[str, Any]):
    """As tokenizers return them: a mapping that can be moved."""

    def to(self, device: Any) -> Encoding:
        self.moved_to = device
        return self


class _Echo(nn.Module):
    """Returns what it is called with."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return {"logits": next(iter((*inputs, *named.values()))), "inputs": inputs, "named": named}


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        ((ONE, LABELS), (ONE,)),
        ([ONE, LABELS], (ONE,)),
        (Pair(ONE, LABELS), (ONE,)),
        ((ONE, TWO, LABELS), (ONE, TWO)),
        (((ONE, TWO), LABELS), (ONE, TWO)),
        (({"x": ONE, "y": TWO}, LABELS), {"x": ONE, "y": TWO}),
        ({"labels": LABELS, "x": ONE, "use_cache": False}, {"x": ONE, "use_cache": False}),
        ({"x": ONE, "label": LABELS}, {"x": ONE}),
        (Encoding(x=ONE, labels=LABELS), {"x": ONE}),
        (ONE, (ONE,)),
        ((ONE,), (ONE,)),
        ({"x": ONE}, {"x": ONE}),
    ],
)
def test_a_batch_has_inputs_by_place_or_by_keyword_and_perhaps_labels(
    batch: Any, inputs: Any
) -> None:
    found, labels = parted(batch)
    assert found == inputs
    assert all(one is other for one, other in zip(found, inputs, strict=True))
    alone = batch is ONE or len(batch) == 1
    assert labels is None if alone else labels is LABELS

    target = ClassificationTarget(_Echo, dict.fromkeys(SPLITS, TensorDataset(ONE, LABELS)))
    assert target.forward(_Echo(), batch) is ONE
    assert target.labels(batch) is labels
    assert LABELS is not target.labels(target.without_labels(batch))
    assert target.forward(_Echo(), target.without_labels(batch)) is ONE


@dataclass
class _Found:
    hidden: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        (TWO, TWO),
        ((TWO, ONE), TWO),
        ([None, (TWO, ONE)], TWO),
        ({"hidden": ONE, "logits": TWO}, TWO),
        ({"scores": TWO, "hidden": ONE}, TWO),
        (UserDict(hidden=ONE, logits=TWO), TWO),
        (_Found(ONE, TWO), TWO),
        (SimpleNamespace(logits=TWO), TWO),
    ],
)
def test_logits_are_picked_or_else_the_first_tensor(outputs: Any, what: Tensor) -> None:
    assert picked(outputs) is what


def test_outputs_without_a_tensor_are_refused() -> None:
    with pytest.raises(TargetError, match=r"returned NoneType without a tensor.*forward\(model"):
        picked(None)


def test_nests_keep_their_form() -> None:
    nest = {"a": Pair(ONE, [TWO, "text"]), "b": UserDict(c=LABELS), "d": None}
    twice = joined([nest, nest])
    assert isinstance(twice["a"], Pair)
    assert isinstance(twice["b"], UserDict)
    assert twice["a"].labels[1] == "text"
    assert torch.equal(twice["b"]["c"], torch.cat([LABELS, LABELS]))
    assert num_samples(twice) == 12
    assert torch.equal(mapped(lambda tensor: tensor[:6], twice)["a"].inputs, ONE)
    with pytest.raises(TargetError, match="pad all samples"):
        joined([{"x": torch.zeros(2, 3)}, {"x": torch.zeros(2, 4)}])


def test_batches_move_themselves_where_they_can() -> None:
    cpu = torch.device("cpu")
    assert moved(Encoding(x=ONE), cpu).moved_to == cpu
    assert torch.equal(moved({"x": [ONE]}, cpu)["x"][0], ONE)


@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_are_the_same_in_memory_and_sample_by_sample(shuffled: bool) -> None:
    def generator() -> torch.Generator | None:
        return torch.Generator().manual_seed(3) if shuffled else None

    whole = as_dataset({"x": ONE, "mask": TWO, "labels": LABELS})
    samples: Any = [whole[index] for index in range(6)]
    for batch in batches_of(whole, 4, generator()):
        inputs, labels = parted(batch)
        assert list(inputs) == ["x", "mask"]
        assert torch.equal(inputs["x"][:, 0].long() % 2, labels)
        assert torch.equal(inputs["mask"][:, 0], 2 * inputs["x"][:, 0])
    pairs = zip(batches_of(whole, 4), batches_of(samples, 4), strict=True)
    for one, other in pairs:
        assert torch.equal(parted(one)[1], parted(other)[1])


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for index in range(6):
            yield ONE[index], TWO[index], int(LABELS[index])


def _texts(samples: list[Any]) -> dict[str, Tensor]:
    inputs = torch.stack([ONE[len(text)] for text in samples])
    return {"x": inputs, "labels": LABELS[: len(samples)]}


def test_loaders_and_streams_become_datasets() -> None:
    for stream in (_Stream(), DataLoader(_Stream(), batch_size=4)):
        (inputs, labels), *none = batches_of(as_dataset(stream), 8)
        assert not none
        assert torch.equal(inputs[1], TWO)
        assert torch.equal(labels, LABELS)
    texts: Any = ["a", "bb", "ccc"]
    loaded = as_dataset(DataLoader(texts, batch_size=2, collate_fn=_texts))
    (batch,) = batches_of(Subset(loaded, [1, 2]), 2)
    assert batch["x"].tolist() == [[2.0], [3.0]]


def test_endless_streams_are_read_in_part(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rl_compress.targets.datasets._MOST_BYTES", 70)
    with caplog.at_level("WARNING"):
        found: Any = as_dataset(DataLoader(_Stream(), batch_size=2), "data['train']")
    assert len(found) == 4
    assert "data['train']: only its first 4 samples" in caplog.text


class _Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Any:
        return None, self.head(torch.cat([x, y], dim=1)) * scale


def test_a_classifier_takes_loaders_and_is_called_as_its_batches_say() -> None:
    splits: dict[str, Any] = dict.fromkeys(SPLITS, DataLoader(_Stream(), batch_size=4))
    target = ClassificationTarget(_Classifier, splits)
    model = target.build()
    expected = model(ONE, TWO)[1]
    right = (expected.argmax(dim=1) == LABELS).double().mean()
    assert target.score(model, "test") == pytest.approx(100.0 * float(right))
    assert target.class_axis(expected) == 1
    example = target.inputs_for(model)
    assert [tuple(tensor.shape) for tensor in example] == [(1, 1), (1, 2)]


class _Own(ClassificationTarget):
    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[1], y=batch[2], scale=2.0)[1]

    def labels(self, batch: Any) -> Any:
        return batch[0]


def test_inputs_of_ones_own_forward_are_those_that_the_model_is_called_with() -> None:
    splits: dict[str, Dataset[Any]] = dict.fromkeys(SPLITS, TensorDataset(LABELS, ONE, TWO))
    target = _Own(_Classifier, splits)
    model = target.build()
    found = target.inputs_for(model)
    assert isinstance(found, dict)
    assert found["scale"] == 2.0
    assert [found[name].shape for name in ("x", "y")] == [(1, 1), (1, 2)]
    batch = (LABELS, ONE, TWO)
    assert list(map(id, target.input_tensors(batch))) == [id(ONE), id(TWO)]
    assert target.without_labels(batch) is batch
    with pytest.raises(TargetError, match="must call the model"):
        arguments_of(model, lambda: None)


def test_an_attribute_that_hides_a_method_is_named() -> None:
    with pytest.raises(TargetError, match=r"attribute labels hides the method labels\(…\)"):
        make_target(TargetConfig(factory=f"{__name__}:hiding"))


def hiding() -> Target:
    target = _Own(_Classifier, dict.fromkeys(SPLITS, TensorDataset(LABELS, ONE, TWO)))
    target.labels = LABELS  # type: ignore[assignment, method-assign]
    return target


def test_batches_are_unpacked_in_targets_only() -> None:
    root = Path(rl_compress.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name == "targets":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.For | ast.comprehension):
                names = {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
                from_batches = "batches(" in ast.unparse(node.iter)
                assert not (from_batches and names & {"inputs", "labels"}), path
