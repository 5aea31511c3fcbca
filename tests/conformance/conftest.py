"""Own parts stand for those of users: the suites run over them too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_target import TinyTarget

from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.target import Target
from rl_compress.variants.compressor import Compressor

sys.path.append(str(Path(__file__).parent.parent / "own_parts"))


@pytest.fixture(scope="session")
def target() -> Target:
    return TinyTarget()


@pytest.fixture(scope="session")
def compressor(target: Target) -> Compressor:
    config = SpaceConfig.model_validate({"pruning": {"importance": "contribution"}})
    return Compressor.prepare(target.build(), target.example_inputs(), config, target=target)
