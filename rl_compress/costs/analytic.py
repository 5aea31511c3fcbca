"""Exact costs of every variant from one look at the target: MACs, parameters, bytes, memory.

The sizes of all tensors are products of widths, and the MACs of a layer are proportional to the
size of its weight, so costs of a policy need no variant to be built.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl_compress.costs.activation_memory import ActivationMemory, live_bytes
from rl_compress.costs.precision import Precision, stored_bytes, unquantized
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
        precision: Mapping[str, Precision] | None = None,
    ) -> None:
        """Measure the uncompressed model once.

        Args:
            model: The uncompressed model on the CPU.
            groups: The groups that widths refer to.
            example_inputs: Inputs of one forward pass, batch size 1.
            memory: Tells the peak activation memory of widths; by default it is constant.
            precision: Bits of each tensor in the variants; by default their own.
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
        self._is_saved = np.array([name in saved for name in names], dtype=np.int64)
        macs, self.fixed_macs = count_macs(model, example_inputs)
        """MACs of operations that belong to no weight, such as attention; taken as constant."""
        self._macs_per_element = np.array(
            [macs.get(name, 0) // max(tensors[name].numel(), 1) for name in names], dtype=np.int64
        )
        own = {name: unquantized(tensor) for name, tensor in tensors.items()}
        self._precision = [(own if precision is None else precision)[name] for name in names]
        self._own_bops = max((entry.bops_per_mac for entry in own.values()), default=0)
        self._memory = memory
        self._full_memory = int(live_bytes(model, example_inputs).max())
        lengths = np.ones_like(self._fixed)
        for row, name in enumerate(names):
            lengths[row, : tensors[name].ndim] = tensors[name].shape
        self.original = self._costs(lengths, [own[name] for name in names], self._full_memory)
        """Costs of the uncompressed, unquantized target."""

    def costs(self, widths: Widths) -> dict[str, int]:
        """Return every cost of a variant.

        Args:
            widths: Units kept in each group, shape ``(num_groups,)``.

        Returns:
            See :data:`~rl_compress.policy.budget.COSTS`.
        """
        memory = self._memory.peak_bytes(widths) if self._memory else self._full_memory
        return self._costs(self._lengths(widths), self._precision, memory)

    def macs_of_group(self, group: int, widths: Widths) -> int:
        """Return the MACs of all layers whose width or input width a group decides."""
        touched = self._per_unit[:, :, group].any(axis=1)
        return int((self._elements(widths) * touched) @ self._macs_per_element)

    def params_of_group(self, group: int, widths: Widths) -> int:
        """Return the parameters of all tensors that a group's width decides."""
        touched = self._per_unit[:, :, group].any(axis=1)
        return int((self._elements(widths) * touched) @ self._is_parameter)

    def _costs(
        self, lengths: npt.NDArray[np.int64], precision: Sequence[Precision], memory: int
    ) -> dict[str, int]:
        elements = lengths.prod(axis=1)
        macs = elements * self._macs_per_element
        bops_per_mac = np.array([entry.bops_per_mac for entry in precision], dtype=np.int64)
        return {
            "macs": int(macs.sum()) + self.fixed_macs,
            "params": int(elements @ self._is_parameter),
            "size_bytes": int(stored_bytes(precision, lengths) @ self._is_saved),
            # What belongs to no weight, such as attention, is not quantized.
            "bops": int(macs @ bops_per_mac) + self.fixed_macs * self._own_bops,
            "peak_memory_bytes": memory,
        }

    def _lengths(self, widths: Widths) -> npt.NDArray[np.int64]:
        return self._fixed + self._per_unit @ np.asarray(widths, dtype=np.int64)

    def _elements(self, widths: Widths) -> npt.NDArray[np.int64]:
        return self._lengths(widths).prod(axis=1)


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
