"""The file of tensors: safetensors, with packed tensors of small models bundled into one.

A safetensors file takes about 90 bytes of header for each tensor. A quantized layer is stored as
codes, scales, bias and statistics, which for a model of a few dozen kilobytes makes the header as
large as the weights. There, all tensors are one of bytes, and what they are is told in the file's
metadata, compressed.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_BUNDLE = "bundle"
"""Name of the one tensor, and of the metadata that tells what is in it."""

_ENTRY_BYTES = 70
"""Header of a tensor, beside its name."""

_MOST_HEADER = 0.02
"""Share of the tensors' bytes from which on a header is too large."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, packed: bool) -> None:
    """Write tensors into a file.

    Args:
        tensors: Contiguous, on the CPU, by name.
        path: The file.
        packed: Whether they are codes, which nobody but :func:`read_tensors` reads; then they are
            bundled where their header would take more than 2 % of their bytes.
    """
    header = sum(len(name) + _ENTRY_BYTES for name in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if not packed or header <= _MOST_HEADER * size:
        save_file(dict(tensors), path)
        return
    # By falling size of their elements, so that each begins at a multiple of that.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    parts = [tensor.reshape(-1).view(torch.uint8) for _, tensor in ordered]
    index = [
        [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for name, tensor in ordered
    ]
    text = json.dumps(index, separators=(",", ":")).encode()
    described = base64.b85encode(zlib.compress(text, 9)).decode()
    save_file({_BUNDLE: torch.cat(parts)}, path, metadata={_BUNDLE: described})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote, bundled or not.

    Raises:
        SafetensorError: It is no safetensors file.
        ValueError: Its bundle is not what its metadata tells.
    """
    with safe_open(path, "pt") as file:
        described = (file.metadata() or {}).get(_BUNDLE)
        if described is None:
            return load_file(path)
        data = file.get_tensor(_BUNDLE)
    try:
        index = json.loads(zlib.decompress(base64.b85decode(described)))
    except zlib.error as error:
        raise ValueError(f"its index is damaged: {error}") from None
    tensors, start = {}, 0
    for name, type_name, shape in index:
        dtype = getattr(torch, type_name)
        end = start + torch.Size(shape).numel() * dtype.itemsize
        if end > len(data):
            raise ValueError(f"it ends within {name}")
        # A copy, so that no tensor keeps the others' memory.
        tensors[name] = data[start:end].clone().view(dtype).reshape(shape)
        start = end
    return tensors
