"""Peak activation memory of every variant, from a few traced forward passes of the target.

An activation is as large as its number of channels, so what is alive while an operation runs is
linear in the widths. The coefficients are read off exactly: one pass for the whole network, and one
for each group with a unit less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rl_compress.policy.search_space import SearchSpace, Widths


class ActivationMemory:
    """Peak activation memory as a function of widths."""

    def __init__(
        self,
        variant: Callable[[Widths], nn.Module],
        space: SearchSpace,
        example_inputs: Sequence[Tensor],
    ) -> None:
        """Trace the network.

        Args:
            variant: Builds the network of some widths.
            space: The groups and their widths.
            example_inputs: Inputs of one forward pass, batch size 1.
        """
        full_widths, smallest = space.full_widths, space.smallest_widths
        full = live_bytes(variant(full_widths), example_inputs)
        per_unit = np.zeros((len(full), len(full_widths)), dtype=np.int64)
        for group in np.flatnonzero(smallest < full_widths):
            narrower = full_widths.copy()
            narrower[group] -= 1
            per_unit[:, group] = full - live_bytes(variant(narrower), example_inputs)
        # Operations with the same live activations need to be looked at once.
        rows = np.concatenate([(full - per_unit @ full_widths)[:, None], per_unit], axis=1)
        rows = np.unique(rows, axis=0)
        self._fixed, self._per_unit = rows[:, 0], rows[:, 1:]

    def peak_bytes(self, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the bytes alive at the worst moment of a forward pass of one sample.

        Args:
            widths: Units kept in each group, shape ``(…, num_groups)``.

        Returns:
            Shape ``(…,)``.
        """
        return (self._fixed + np.asarray(widths, dtype=np.int64) @ self._per_unit.T).max(axis=-1)


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
