from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_compress.export.tensor_file import read_tensors, write_tensors

DTYPES = (torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.float16, torch.bool)
SHAPES = st.lists(st.integers(0, 5), max_size=3)


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@given(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=12))
def test_bundled_tensors_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
    tensors = {
        f"layer{i}.weight:codes": torch.randint(0, 2, shape).to(dtype)
        for i, (dtype, shape) in enumerate(parts)
    }
    write_tensors(tensors, path, packed=True)
    assert _equal(read_tensors(path), tensors)


def test_a_header_of_many_tensors_shrinks_to_a_few_bytes_each(tmp_path: Path) -> None:
    tensors = {f"layer{i}.norm.running_mean": torch.randn(6) for i in range(100)}
    write_tensors(tensors, tmp_path / "plain", packed=False)
    write_tensors(tensors, tmp_path / "bundled", packed=True)
    plain, bundled = ((tmp_path / name).stat().st_size for name in ("plain", "bundled"))
    assert plain > 2400 + 8000
    assert bundled < 2400 + 1000
    assert _equal(load_file(tmp_path / "plain"), tensors)


def test_large_and_plain_models_stay_readable_by_others(tmp_path: Path) -> None:
    tensors = {"weight:codes": torch.zeros(100_000, dtype=torch.uint8)}
    write_tensors(tensors, tmp_path / "model", packed=True)
    assert _equal(load_file(tmp_path / "model"), tensors)
    assert _equal(read_tensors(tmp_path / "model"), tensors)


def test_damage_is_an_error_and_not_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors({"a:codes": torch.zeros(4, dtype=torch.uint8)}, path, packed=True)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(SafetensorError):
        read_tensors(path)
    save_file({"bundle": torch.zeros(2, dtype=torch.uint8)}, path, metadata={"bundle": "0000"})
    with pytest.raises(ValueError, match="index is damaged"):
        read_tensors(path)
