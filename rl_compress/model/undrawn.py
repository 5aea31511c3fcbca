"""Making a model whose values come from a file, without drawing random ones for it first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_DRAWS = (torch.ops.aten.uniform_.default, torch.ops.aten.normal_.default)


def made_undrawn(make: Callable[[], nn.Module], names: Collection[str]) -> nn.Module:
    """Make a model, of which some parameters and buffers may have any values.

    Args:
        make: Makes the model. It is called again, and draws all, where it looks at what it has
            drawn, draws other random numbers, or does not run without them.
        names: Parameters and buffers whose values will be replaced.
    """
    skipping = _Skipping()
    try:
        with skipping:
            model = make()
    except (Exception, _NeededError):
        return make()
    if skipping.needed or not isinstance(model, nn.Module):
        return make()
    replaced = {
        StorageWeakRef(tensor.untyped_storage()).cdata
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name in names and isinstance(tensor, Tensor)
    }
    left = [ref for ref in skipping.undrawn.values() if ref.cdata not in replaced]
    return model if all(ref.expired() for ref in left) else make()


class _NeededError(BaseException):
    """Random numbers are needed; passes through code that goes on after exceptions."""


class _Skipping(TorchDispatchMode):
    """Leaves new tensors as they are instead of filling them with random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.undrawn: dict[int, StorageWeakRef] = {}
        """Memory that was to be filled."""
        self.needed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS and not self.needed:
            ref = StorageWeakRef(args[0].untyped_storage())
            self.undrawn[ref.cdata] = ref
            return args[0]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if read and func._schema.arguments[0].alias_info is not None:
            read = read[1:]  # it is written into, or becomes a view
        if torch.Tag.nondeterministic_seeded in func.tags or any(map(self._is_undrawn, read)):
            self.needed = True
            raise _NeededError
        return func(*args, **(kwargs or {}))

    def _is_undrawn(self, tensor: Tensor) -> bool:
        return StorageWeakRef(tensor.untyped_storage()).cdata in self.undrawn
