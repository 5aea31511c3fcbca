"""One copy of the weights per node: mapped by all processes, and spoiled by none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rl_compress.agent.rllib.weights import local_weights, write_weights
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

WIDTH = 2100
LAYERS = 12


def _wide(width: int = WIDTH) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        linear = nn.Linear(width, width, bias=False)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4)).eval()


class _Mapper:
    """What an env runner does with the weights."""

    skeleton: ClassVar[Any] = None

    def __init__(self, weights: Path, compressor: Compressor) -> None:
        torch.set_num_threads(1)
        self._weights = weights
        self._compressor = compressor
        self._network: Any = None

    def warm_up(self) -> int:
        """Run something of the same kind, so that libraries and buffers are loaded."""
        with torch.inference_mode():
            _wide(64)(torch.zeros(1, 64))
        return _private_bytes()

    def private_bytes(self) -> int:
        """Return this process's private memory."""
        return _private_bytes()

    def run(self) -> float:
        """Map the weights, and return the output of a variant."""
        from rl_compress.variants.slimmable import SlimmableNetwork

        bare = self._compressor.network
        weights = load_file(local_weights(self._weights, _not_needed))
        self._network = SlimmableNetwork(bare.skeleton, weights, bare.groups)
        return self.output()

    def output(self) -> float:
        """Return a figure that depends on all weights."""
        space = self._compressor.space
        variant = self._network.variant((space.full_amounts * 3 + 3) // 4)
        with torch.inference_mode():
            return float(variant(torch.ones(1, WIDTH)).double().sum())

    def spoil(self) -> None:
        """Write into the mapped tensors, as no variant ever should."""
        for tensor in self._network.tensors.values():
            tensor[:8].mul_(0.0)


def _not_needed() -> bytes:
    raise AssertionError("the file is on this node")


def _private_bytes() -> int:
    """Return the memory that would be free if this process ended (USS)."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return sum(1024 * int(kb) for kb in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE))


@pytest.fixture(scope="module")
def wide() -> tuple[Path, Compressor, int]:
    """Return the weights file of a model of more than 200 MB, its compressor, and its bytes."""
    torch.manual_seed(0)
    model = _wide()
    compressor = Compressor.prepare(model, (torch.zeros(1, WIDTH),), SpaceConfig())
    size = sum(t.numel() * t.element_size() for t in compressor.network.tensors.values())
    assert size > 200e6
    return write_weights(compressor.network.tensors), compressor.without_weights(), size


@pytest.fixture(scope="module")
def mappers(ray_session: Any, wide: tuple[Path, Compressor, int]) -> list[Any]:
    weights, compressor, _ = wide
    make = ray_session.remote(_Mapper).options(num_cpus=0.1)
    return [make.remote(weights, compressor) for _ in range(2)]


def test_mapping_the_weights_costs_no_private_memory(
    ray_session: Any, mappers: list[Any], wide: tuple[Path, Compressor, int]
) -> None:
    *_, size = wide
    before = ray_session.get([mapper.warm_up.remote() for mapper in mappers])
    outputs = ray_session.get([mapper.run.remote() for mapper in mappers])
    # Not before both have mapped the file: a page that one process alone maps counts as its own.
    after = ray_session.get([mapper.private_bytes.remote() for mapper in mappers])

    assert outputs[0] == outputs[1]
    for growth in (late - early for early, late in zip(before, after, strict=True)):
        assert growth < 0.25 * size


def test_write_in_one_process_is_not_seen_in_another(
    ray_session: Any, mappers: list[Any], wide: tuple[Path, Compressor, int]
) -> None:
    spoiler, other = mappers
    expected, _ = ray_session.get([mapper.run.remote() for mapper in mappers])

    ray_session.get(spoiler.spoil.remote())

    assert ray_session.get(spoiler.output.remote()) != expected
    assert ray_session.get(other.output.remote()) == expected
    # Neither is the file: who maps it later gets the weights as they were.
    assert ray_session.get(spoiler.run.remote()) == expected


def test_missing_file_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not share the driver's disk gets the bytes from the object store."""
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "driver"))
    path = write_weights({"weight": torch.arange(6.0).reshape(2, 3)})
    data = path.read_bytes()
    path.unlink()
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "node"))
    fetched: list[int] = []

    def fetch() -> bytes:
        fetched.append(1)
        return data

    for _ in range(2):
        tensors = load_file(local_weights(path, fetch))
        assert torch.equal(tensors["weight"], torch.arange(6.0).reshape(2, 3))
    assert len(fetched) == 1
