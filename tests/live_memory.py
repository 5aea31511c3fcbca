"""What eager execution keeps in memory, seen by running it: what predictions are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def live_bytes(model: nn.Module, example_inputs: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    """Trace a forward pass.

    Args:
        model: Any module; it is run without gradients.
        example_inputs: Its inputs.

    Returns:
        For each operation the bytes of all activations, inputs included, that are alive when it
        has run; parameters and buffers do not count. In eager execution, where an activation is
        freed as soon as nothing refers to it. Shape ``(operations,)``.
    """
    inputs = [tensor.clone() for tensor in example_inputs]
    weights = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in _state(model)}
    tracker = _LiveStorages(weights)
    for tensor in inputs:
        tracker.note(tensor)
    with torch.no_grad(), tracker:
        model(*inputs)
    return np.array(tracker.history or [tracker.live()], dtype=np.int64)


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


class _LiveStorages(TorchDispatchMode):
    """Adds up, after every operation, the storages that are still referred to."""

    def __init__(self, ignored: set[int]) -> None:
        super().__init__()
        self.history: list[int] = []
        self._ignored = ignored
        self._sizes: dict[StorageWeakRef, int] = {}

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on, until it is freed."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata not in self._ignored:
            self._sizes[reference] = storage.nbytes()

    def live(self) -> int:
        """Return the bytes alive."""
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        return sum(self._sizes.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        self.history.append(self.live())
        return result
