from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.runs.store import EvaluationStore
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor

MakeTarget = Callable[[Callable[[], nn.Module]], ClassificationTarget]


def _random_target(build: Callable[[], nn.Module]) -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: TensorDataset(
            torch.randn(24, 1, 8, 8, generator=generator),
            torch.randint(10, (24,), generator=generator),
        )
        for name in SPLITS
    }
    return ClassificationTarget(build, splits, batch_size=10)


@pytest.fixture
def make_target() -> MakeTarget:
    """Return a function that gives a model random data of 24 samples a split."""
    return _random_target


@pytest.fixture
def target() -> ClassificationTarget:
    return _random_target(lambda: zoo.make("plain"))


@pytest.fixture(scope="module")
def compressor() -> Compressor:
    return Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig())


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(tmp_path / "evaluations")
