"""Packing of sparse tensors: the values that stay, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

VALUES, BITMAP, ROWS, COLUMNS = "values", "bitmap", "rows", "columns"
"""Names of the stored parts."""

_SMALLER = (torch.uint8, torch.int16, torch.int32)
_INDEX_TYPES = {dtype.itemsize: dtype for dtype in (*_SMALLER, torch.int64)}

_BIT_WEIGHTS = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)


def pack_sparse(values: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Store a sparse tensor as a bitmap or in compressed rows (CSR), whichever is smaller.

    Args:
        values: Any type and shape.
        mask: Which elements stay, booleans of the same shape.

    Returns:
        The parts to store, and a description in plain data. ``values`` holds the elements that
        stay, in the tensor's order. A bitmap has a bit for each element, the lowest first; rows are
        those of the first axis, with a running count and the position of each element within its
        row, in the smallest integers that can hold them.
    """
    rows = mask.reshape(len(mask), -1) if mask.ndim else mask.reshape(1, 1)
    positions = rows.nonzero()
    parts = {VALUES: values[mask].contiguous()}
    layout, index_type, pointer_type = _layout(rows.shape[0], rows.shape[1], len(positions))
    if layout == "bitmap":
        flat = torch.nn.functional.pad(rows.reshape(-1), (0, -rows.numel() % 8)).reshape(-1, 8)
        parts[BITMAP] = (flat.to(torch.uint8) * _BIT_WEIGHTS).sum(dim=1).to(torch.uint8)
    else:
        counts = torch.cat([torch.zeros(1, dtype=torch.long), rows.sum(dim=1).cumsum(0)])
        parts[ROWS] = counts.to(pointer_type)
        parts[COLUMNS] = positions[:, 1].to(index_type)
    return parts, {"layout": layout, "shape": list(values.shape), "count": len(positions)}


def unpack_sparse(parts: Mapping[str, Tensor], description: Mapping[str, Any]) -> Tensor:
    """Return the dense tensor, zero where nothing was stored."""
    shape, values = torch.Size(description["shape"]), parts[VALUES]
    dense = torch.zeros(shape.numel(), dtype=values.dtype)
    if description["layout"] == "bitmap":
        bits = (parts[BITMAP][:, None] & _BIT_WEIGHTS) > 0
        kept = bits.reshape(-1)[: shape.numel()]
        dense[kept] = values
        return dense.reshape(shape)
    counts = parts[ROWS].long().diff()
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    dense[row * (shape.numel() // len(counts)) + parts[COLUMNS].long()] = values
    return dense.reshape(shape)


def sparse_bytes(num_rows: Any, row_length: Any, count: Any, bits: Any) -> Any:
    """Return the bytes that packed tensors take, without packing anything.

    Args:
        num_rows: Lengths of the first axis, an array or one number, as all that follows.
        row_length: Elements of a row.
        count: Elements that stay.
        bits: Bits of each value.
    """
    in_rows = count * _width(row_length - 1) + (num_rows + 1) * _width(count)
    bitmap = -(-num_rows * row_length // 8)
    return -(-count * bits // 8) + np.minimum(in_rows, bitmap)


def _layout(num_rows: int, row_length: int, count: int) -> tuple[str, torch.dtype, torch.dtype]:
    """Choose the smaller layout, and the smallest types of positions and running counts."""
    index, pointer = int(_width(row_length - 1)), int(_width(count))
    in_rows = count * index + (num_rows + 1) * pointer
    smaller = "rows" if in_rows < -(-num_rows * row_length // 8) else "bitmap"
    return smaller, _INDEX_TYPES[index], _INDEX_TYPES[pointer]


def _width(largest: Any) -> Any:
    """Return the bytes of the smallest type that holds numbers from 0 on."""
    sizes = [np.greater(largest, torch.iinfo(dtype).max) * dtype.itemsize for dtype in _SMALLER]
    return sum(sizes, 1)
