"""Reading IDX files, the format of the MNIST family of data sets.

A header of big-endian fields (two zero bytes, a type code, the number of axes, then each axis's
length as 32 bits) is followed by the values, the last axis varying fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_compress.errors import TargetError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, num_axes: int) -> Tensor:
    """Read an IDX file of unsigned bytes, compressed by gzip or not.

    Args:
        path: The file; whether it is compressed is told by its contents.
        num_axes: Axes that it must have: 1 for labels, 3 for images.

    Returns:
        The values as ``torch.uint8``, in the shape that the header gives.

    Raises:
        TargetError: The file cannot be read, is no IDX file of bytes with that many axes, or is
            longer or shorter than its header says.
    """
    data = _contents(path)
    expected = bytes([0, 0, _UNSIGNED_BYTE, num_axes])
    if data[:4] != expected:
        raise TargetError(
            f"{path}: an IDX file of bytes with {num_axes} axes begins with {expected.hex()}, "
            f"but this begins with {data[:4].hex() or 'nothing'}; fetch the file again"
        )
    header = 4 + 4 * num_axes
    if len(data) < header:
        raise TargetError(f"{path}: ends within the IDX header; fetch the file again")
    shape = struct.unpack(f">{num_axes}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise TargetError(
            f"{path}: the IDX header announces {math.prod(shape)} bytes of data, shape {shape}, "
            f"but {len(data) - header} follow; fetch the file again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy())


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == _GZIP_MAGIC else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TargetError(
            f"{path}: damaged or incomplete gzip data ({error}); fetch the file again"
        ) from None
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror or error})") from None
