"""Exact costs of every variant from one look at the target: MACs, parameters, bytes, memory.

The sizes of all tensors are products of widths, and the MACs of a layer are proportional to the
size of its weight, so costs of a policy need no variant to be built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl_compress.costs.activation_memory import ActivationMemory, live_bytes
from rl_compress.layers.axes import named_tensors
from rl_compress.layers.groups import LayerGroup
from rl_compress.policy.search_space import Widths

FLOPS_PER_MAC = 2
"""Torch counts floating-point operations: a multiplication and an addition for each MAC."""


class AnalyticCosts:
    """Costs as functions of widths."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        example_inputs: Sequence[Tensor],
        memory: ActivationMemory | None = None,
    ) -> None:
        """Measure the uncompressed model once.

        Args:
            model: The uncompressed model on the CPU.
            groups: The groups that widths refer to.
            example_inputs: Inputs of one forward pass, batch size 1.
            memory: Tells the peak activation memory of widths; by default it is constant.
        """
        tensors = named_tensors(model)
        names = list(tensors)
        saved = set(model.state_dict())
        parameters = dict(model.named_parameters())
        max_dims = max((tensor.ndim for tensor in tensors.values()), default=0)
        # Length of axis d of tensor t: fixed[t, d] + per_unit[t, d, :] @ widths.
        self._fixed = np.ones((len(names), max_dims), dtype=np.int64)
        self._per_unit = np.zeros((len(names), max_dims, len(groups)), dtype=np.int64)
        for row, name in enumerate(names):
            self._fixed[row, : tensors[name].ndim] = tensors[name].shape
        rows = {name: row for row, name in enumerate(names)}
        for index, group in enumerate(groups):
            for axis in group.axes:
                row = rows[axis.tensor]
                self._fixed[row, axis.axis] -= axis.positions.size
                self._per_unit[row, axis.axis, index] += axis.positions.shape[1]
        self._is_parameter = np.array([name in parameters for name in names], dtype=np.int64)
        self._bytes = np.array(
            [t.element_size() if name in saved else 0 for name, t in tensors.items()],
            dtype=np.int64,
        )
        macs, self.fixed_macs = count_macs(model, example_inputs)
        """MACs of operations that belong to no weight, such as attention; taken as constant."""
        self._macs_per_element = np.array(
            [macs.get(name, 0) // max(tensors[name].numel(), 1) for name in names], dtype=np.int64
        )
        self._bits = np.array([8 * tensor.element_size() for tensor in tensors.values()])
        self._memory = memory
        self._full_memory = int(live_bytes(model, example_inputs).max())

    def costs(self, widths: Widths) -> dict[str, int]:
        """Return every cost of a variant.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.

        Returns:
            See :data:`~rl_compress.policy.budget.COSTS`.
        """
        elements = self._elements(widths)
        macs = elements * self._macs_per_element
        memory = self._memory.peak_bytes(widths) if self._memory else self._full_memory
        return {
            "macs": int(macs.sum()) + self.fixed_macs,
            "params": int(elements @ self._is_parameter),
            "size_bytes": int(elements @ self._bytes),
            "bops": int(macs @ self._bits**2) + self.fixed_macs * int(self._bits.max()) ** 2,
            "peak_memory_bytes": memory,
        }

    def macs_of_group(self, group: int, widths: Widths) -> int:
        """Return the MACs of all layers whose width or input width a group decides."""
        touched = self._per_unit[:, :, group].any(axis=1)
        return int((self._elements(widths) * touched) @ self._macs_per_element)

    def params_of_group(self, group: int, widths: Widths) -> int:
        """Return the parameters of all tensors that a group's width decides."""
        touched = self._per_unit[:, :, group].any(axis=1)
        return int((self._elements(widths) * touched) @ self._is_parameter)

    def _elements(self, widths: Widths) -> npt.NDArray[np.int64]:
        lengths = self._fixed + self._per_unit @ np.asarray(widths, dtype=np.int64)
        return lengths.prod(axis=1)


def count_macs(model: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[dict[str, int], int]:
    """Count MACs of one forward pass with torch's own counter.

    Returns:
        MACs of each layer under the name of its weight, and those of all other operations.
    """
    counter = FlopCounterMode(display=False)
    # The counter's module tracker warns of frozen modules, which do not matter without gradients.
    logger = logging.getLogger("torch.utils.module_tracker")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), counter:
            model(*example_inputs)
    finally:
        logger.setLevel(level)
    by_module = counter.get_flop_counts()
    prefix = f"{type(model).__name__}."
    macs: dict[str, int] = {}
    for name, module in model.named_modules():
        if "weight" in dict(module.named_parameters(recurse=False)):
            flops = sum(by_module.get(prefix + name if name else prefix[:-1], {}).values())
            if flops:
                macs[f"{name}.weight" if name else "weight"] = flops // FLOPS_PER_MAC
    total = counter.get_total_flops() // FLOPS_PER_MAC
    return macs, total - sum(macs.values())
