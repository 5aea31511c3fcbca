"""One copy of the target's weights per node, mapped by every worker process.

Tensors are mapped from a node-local safetensors file: the pages are shared, and a write would copy
the page for the writer alone. (Tensors taken zero-copy from Ray's object store are shared *and*
writable: one in-place operation would spoil them for everybody.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from rl_compress.targets.cache import cache_dir, write_whole


def write_weights(tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors to this node's cache, under the hash of their contents."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    path = _path(hashlib.sha256(data).hexdigest())
    if not path.exists():
        write_whole(path, data)
    return path


def local_weights(path: Path, fetch: Callable[[], bytes]) -> Path:
    """Return this node's copy of a file of weights, fetched first if there is none.

    Args:
        path: The file's place on the driver's node; its name is the hash of the contents.
        fetch: Returns the file's contents from elsewhere.

    Returns:
        A file whose tensors, when mapped, share their memory with all other processes of the node.
    """
    local = path if path.exists() else _path(path.stem)
    if not local.exists():
        # Two workers may fetch at once; both write the same contents and rename.
        write_whole(local, fetch())
    return local


def _path(digest: str) -> Path:
    return cache_dir() / "weights" / f"{digest}.safetensors"
