"""How many bits each tensor of a variant takes, when stored and when multiplied."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rl_compress.model.axes import layer_of, named_tensors, quantizable_weights
from rl_compress.quantizers.bits import BitPlan, Bits
from rl_compress.quantizers.blocks import Blocking
from rl_compress.quantizers.quantized_tensor import quantize_tensor
from rl_compress.space.space_config import UNQUANTIZED, QuantizationConfig

_AS_IT_IS = Bits((UNQUANTIZED,))

Table = npt.NDArray[np.int64]
Row = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BitTable:
    """Bits of the weights of variants, each of shape ``(variants, tensors)``."""

    weights: Table
    """As decided; :data:`UNQUANTIZED` for tensors that stay as they are."""
    stored: Table
    """Of each element in the file."""


class Precision:
    """Bits of every tensor as functions of what a variant decides."""

    def __init__(
        self,
        model: nn.Module,
        config: QuantizationConfig | None = None,
        plan: BitPlan | None = None,
    ) -> None:
        """Look at a model's tensors.

        Args:
            model: The uncompressed model.
            config: How weights are quantized.
            plan: To how many bits; by default nothing is quantized.

        Raises:
            ConfigError: Groups of weights do not divide a layer's inputs.
        """
        config, plan = config or QuantizationConfig(), plan or BitPlan()
        tensors = named_tensors(model)
        output_axes = quantizable_weights(model)
        weights, inputs = [_AS_IT_IS] * len(tensors), [_AS_IT_IS] * len(tensors)
        self.own_bits = np.array([8 * t.element_size() for t in tensors.values()], dtype=np.int64)
        """Bits of the tensors as they are, shape ``(tensors,)``."""
        self._block_axis = np.full(len(tensors), -1)
        self._block_size = np.zeros(len(tensors), dtype=np.int64)
        for row, (name, tensor) in enumerate(tensors.items()):
            layer = layer_of(name)
            if name not in output_axes:
                continue
            weights[row] = plan.weights.get(layer, _AS_IT_IS)
            inputs[row] = plan.activations.get(layer, _AS_IT_IS)
            if weights[row].choices[0] < UNQUANTIZED:
                Blocking.of(config, tensor.shape, output_axes[name], name)
                if config.granularity == "channel":
                    self._block_axis[row] = output_axes[name]
                elif config.granularity == "group":
                    self._block_size[row] = config.group_size
        self._by_axis = np.flatnonzero(self._block_axis >= 0)
        self._by_size = np.flatnonzero(self._block_size > 0)
        self._weights, self._inputs = _Rows.of(weights), _Rows.of(inputs)
        # Bytes of the scales, or whatever else a block stores beside its codes, by bits.
        self._block_bytes = np.zeros(UNQUANTIZED + 1, dtype=np.int64)
        for bits in {bits for row in weights for bits in row.choices} - {UNQUANTIZED}:
            self._block_bytes[bits] = _block_bytes(config, bits)

    @property
    def unquantized(self) -> npt.NDArray[np.bool_]:
        """Say of each tensor whether it stays as it is in every variant."""
        return self._weights.always(UNQUANTIZED)

    def only(self, rows: npt.NDArray[np.bool_]) -> Precision:
        """Return the same for some of the tensors."""
        some = copy.copy(self)
        some.own_bits = self.own_bits[rows]
        some._block_axis, some._block_size = self._block_axis[rows], self._block_size[rows]
        some._by_axis = np.flatnonzero(some._block_axis >= 0)
        some._by_size = np.flatnonzero(some._block_size > 0)
        some._weights, some._inputs = self._weights.only(rows), self._inputs.only(rows)
        return some

    def of(self, amounts: Table) -> BitTable:
        """Look up the bits of variants' weights.

        Args:
            amounts: Units kept and bits, shape ``(variants, D)``.
        """
        weights = self._weights.at(amounts)
        return BitTable(weights, np.where(weights == UNQUANTIZED, self.own_bits, weights))

    def as_it_is(self, variants: int) -> BitTable:
        """Return the bits of variants of which nothing is quantized."""
        shape = variants, len(self.own_bits)
        return BitTable(np.full(shape, UNQUANTIZED), np.broadcast_to(self.own_bits, shape))

    def bops_per_mac(self, bits: BitTable, amounts: Table) -> Table:
        """Return weight bits times input bits, shape ``(variants, tensors)``.

        Args:
            bits: Of the weights of the variants.
            amounts: Units kept and bits, shape ``(variants, D)``.
        """
        inputs = self._inputs.at(amounts)
        return bits.stored * np.where(inputs == UNQUANTIZED, self.own_bits, inputs)

    def stored_bytes(
        self, bits: BitTable, lengths: npt.NDArray[np.float64], elements: Table
    ) -> Table:
        """Return what tensors take in the file, shape ``(variants, tensors)``.

        Args:
            bits: Of the variants.
            lengths: The tensors' shapes, ones following, ``(variants, max_dims, tensors)``.
            elements: Their products, ``(variants, tensors)``.
        """
        blocks = np.ones_like(elements)
        if len(self._by_axis):
            blocks[:, self._by_axis] = lengths[:, self._block_axis[self._by_axis], self._by_axis]
        if len(self._by_size):
            blocks[:, self._by_size] = elements[:, self._by_size] // self._block_size[self._by_size]
        # Whole bytes, rounded up; a shift is many times quicker than a division.
        codes = (elements * bits.stored + 7) >> 3
        return codes + self._block_bytes[bits.weights] * blocks


class _Rows:
    """Bits of a list of tensors, looked up for many variants at once."""

    def __init__(self, fixed: Row, dimension: Row) -> None:
        """Keep the bits of each tensor, and the dimension that they follow instead, or -1."""
        self._fixed, self._dimension = fixed, dimension
        self._free = np.flatnonzero(dimension >= 0)

    @classmethod
    def of(cls, bits: list[Bits]) -> _Rows:
        return cls(
            np.array([row.choices[0] for row in bits], dtype=np.int64),
            np.array(
                [-1 if row.dimension is None else row.dimension for row in bits], dtype=np.int64
            ),
        )

    def only(self, rows: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(self._fixed[rows], self._dimension[rows])

    def always(self, bits: int) -> npt.NDArray[np.bool_]:
        return (self._dimension < 0) & (self._fixed == bits)

    def at(self, amounts: Table) -> Table:
        bits = np.empty((len(amounts), len(self._fixed)), dtype=np.int64)
        bits[:] = self._fixed
        bits[:, self._free] = amounts[:, self._dimension[self._free]]
        return bits


def _block_bytes(config: QuantizationConfig, bits: int) -> int:
    """Quantize one block, and see what it takes beside its codes."""
    elements = 64
    block = torch.linspace(-1.0, 1.0, elements).reshape(1, elements)
    alone = config.model_copy(update={"granularity": "tensor", "weight_bits": bits})
    return quantize_tensor(block, alone).packed_bytes - -(-elements * bits // 8)
