from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rl_compress.importance.sparse_packing import pack_sparse, sparse_bytes, unpack_sparse

MASKS = arrays(np.bool_, array_shapes(min_dims=1, max_dims=4, max_side=7))


@given(mask=MASKS, codes=st.booleans())
def test_a_sparse_tensor_comes_back(mask: np.ndarray, codes: bool) -> None:
    numbers = np.arange(1, mask.size + 1).reshape(mask.shape)
    values = torch.from_numpy(numbers % 251 + 1).to(torch.uint8 if codes else torch.float32)
    kept = torch.from_numpy(mask)
    parts, description = pack_sparse(values, kept)
    assert torch.equal(unpack_sparse(parts, description), values * kept)
    taken = sum(part.numel() * part.element_size() for part in parts.values())
    bits = 8 * values.element_size()
    assert taken == sparse_bytes(len(mask), mask.size // len(mask), int(mask.sum()), bits)


def test_the_smaller_layout_is_chosen() -> None:
    values = torch.ones(64, 1000)
    few = torch.zeros(64, 1000, dtype=torch.bool)
    few[:, :5] = True
    assert pack_sparse(values, few)[1]["layout"] == "rows"
    many = torch.rand(64, 1000, generator=torch.Generator().manual_seed(0)) < 0.5
    assert pack_sparse(values, many)[1]["layout"] == "bitmap"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_the_size_is_known_without_packing(share: float) -> None:
    mask = torch.rand(30, 400, generator=torch.Generator().manual_seed(1)) < share
    parts, _ = pack_sparse(torch.ones(30, 400), mask)
    taken = sum(part.numel() * part.element_size() for part in parts.values())
    assert taken == sparse_bytes(30, 400, int(mask.sum()), 32)
