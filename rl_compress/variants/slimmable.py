"""The fast path: one set of weights, ordered by importance, from which variants are sliced.

Channels are put in order once, so that a narrower variant is a prefix of every tensor: a view, not
a copy. Weights are shared by all variants and, where they are mapped from a file, by all worker
processes of a node; variants are therefore built functionally and nothing is written in place.
The idea of one set of weights for all widths is that of slimmable networks (Yu et al., ICLR 2019).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.model.axes import (
    Axis,
    layer_of,
    match_widths,
    named_tensors,
    quantizable_weights,
    taken,
)
from rl_compress.model.copies import copied
from rl_compress.model.groups import LayerGroup
from rl_compress.quantizers.bits import Bits
from rl_compress.quantizers.quantized_tensor import check_finite
from rl_compress.space.search_space import Amounts
from rl_compress.space.space_config import UNQUANTIZED, QuantizationConfig
from rl_compress.variants.packed_weights import PackedWeights


@dataclass(slots=True)
class SlimmableNetwork:
    """A model whose variants share its tensors."""

    skeleton: nn.Module
    """The model's modules with tensors on the meta device: all structure, no weights."""
    tensors: dict[str, Tensor]
    """Parameters and buffers by name, units of every group ordered by importance."""
    groups: tuple[LayerGroup, ...]
    """The groups that widths refer to, in the order of the search space."""
    bits: dict[str, Bits] = field(default_factory=dict)
    """Weights that variants take quantized, by name, and where their bits come from."""
    packed: PackedWeights | None = None
    """Weights with the bits that variants had."""
    _axes: dict[str, list[tuple[int, Axis]]] = field(init=False, repr=False)
    _widened: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._axes = {}
        for index, group in enumerate(self.groups):
            for axis in group.axes:
                self._axes.setdefault(axis.tensor, []).append((index, axis))
        self._widened = list(dict.fromkeys(map(layer_of, self._axes)))

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        orders: Sequence[npt.NDArray[np.int64]],
    ) -> SlimmableNetwork:
        """Order a model's units; the model itself is left as it is.

        Args:
            model: The uncompressed model.
            groups: Prunable groups.
            orders: For each group its units from most to least important, shape ``(num_units,)``.
        """
        named = named_tensors(model)
        tensors = {name: tensor.detach() for name, tensor in named.items()}
        ordered = in_order(tensors, groups, orders)
        kept = {name: t.clone() for name, t in ordered.items() if t is tensors[name]}
        return cls(without_weights(model, named), ordered | kept, tuple(groups))

    def with_bits(self, bits: Mapping[str, Bits], config: QuantizationConfig) -> SlimmableNetwork:
        """Return the same whose variants have quantized weights.

        A channel has its scale whatever is cut elsewhere, so a variant's weights are slices of
        quantized ones as they are of the originals. These are made when first needed, and packed.

        Args:
            bits: Where the bits come from, by layer name.
            config: How to quantize; its own bits do not count.

        Raises:
            ConfigError: A weight holds NaN or infinite values.
        """
        kept: dict[str, Bits] = {}
        for name in quantizable_weights(self.skeleton):
            if (source := bits.get(layer_of(name))) is not None:
                kept[name] = source
                if source.choices[0] < UNQUANTIZED:
                    check_finite(self.tensors[name], name)
        packed = PackedWeights(config, quantizable_weights(self.skeleton))
        return SlimmableNetwork(self.skeleton, self.tensors, self.groups, kept, packed)

    def uncompressed(self) -> nn.Module:
        """Return the whole network, unquantized."""
        return self.variant(np.array([group.num_units for group in self.groups]), quantized=False)

    def variant(self, widths: Amounts, *, quantized: bool = True) -> nn.Module:
        """Build the narrowed network.

        Args:
            widths: Units kept in each group, and bits behind them, shape ``(D,)``.
            quantized: Take quantized weights where there are any.

        Returns:
            A module in evaluation mode whose tensors are views of the shared ones where possible.
            Replace its tensors, never write into them.
        """
        tensors = {}
        for name in named_tensors(self.skeleton):
            by_bits = quantized and name in self.bits
            number = self.bits[name].at(widths) if by_bits else UNQUANTIZED
            tensors[name] = self._narrowed(self._kept(name, number), name, widths)
        network = copy_with(self.skeleton, tensors)
        for name in self._widened:
            match_widths(network.get_submodule(name))
        return network.eval()

    def to(self, device: torch.device) -> SlimmableNetwork:
        """Return the same network with its tensors on a device."""
        return self.with_tensors({name: t.to(device) for name, t in self.tensors.items()})

    def with_tensors(
        self, tensors: Mapping[str, Tensor], packed: Path | None = None
    ) -> SlimmableNetwork:
        """Return the same with other tensors, such as mapped ones.

        Args:
            tensors: Of the same values.
            packed: Folder where processes that have these tensors share quantized ones.
        """
        shared = self.packed and self.packed.again(packed)
        return dataclasses.replace(self, tensors=dict(tensors), packed=shared)

    def narrowed_weights(self, group: int, widths: Amounts) -> list[Tensor]:
        """Return a group's weight matrices and kernels as they are at some widths."""
        names = dict.fromkeys(axis.tensor for axis in self.groups[group].axes)
        tensors = {name: self.tensors[name] for name in names}
        return [self._narrowed(t, name, widths) for name, t in tensors.items() if t.ndim > 1]

    def _kept(self, name: str, bits: int) -> Tensor:
        """Return a weight with a number of bits."""
        weight = self.tensors[name]
        if bits == UNQUANTIZED or self.packed is None:
            return weight
        return self.packed.at(name, bits, weight)

    def _narrowed(self, tensor: Tensor, name: str, widths: Amounts) -> Tensor:
        by_dim: dict[int, list[tuple[int, Axis]]] = {}
        for group, axis in self._axes.get(name, []):
            by_dim.setdefault(axis.axis, []).append((group, axis))
        for dim, uses in by_dim.items():
            keep = np.ones(tensor.shape[dim], dtype=bool)
            for group, axis in uses:
                keep[axis.positions[widths[group] :]] = False
            count = int(keep.sum())
            if keep[:count].all():
                tensor = tensor.narrow(dim, 0, count)
            else:
                indices = torch.from_numpy(np.flatnonzero(keep)).to(tensor.device)
                tensor = tensor.index_select(dim, indices)
        return tensor


def in_order(
    tensors: Mapping[str, Tensor],
    groups: Sequence[LayerGroup],
    orders: Sequence[npt.NDArray[np.int64]],
) -> dict[str, Tensor]:
    """Return a model's tensors with the units of groups in another order; see `from_model`."""
    sources: dict[str, dict[int, npt.NDArray[np.int64]]] = {}
    for group, order in zip(groups, orders, strict=True):
        for axis in group.axes:
            length = tensors[axis.tensor].shape[axis.axis]
            source = sources.setdefault(axis.tensor, {}).setdefault(axis.axis, np.arange(length))
            source[axis.positions] = axis.positions[order]
    return {**tensors, **{name: taken(tensors[name], source) for name, source in sources.items()}}


def copy_with(
    model: nn.Module, tensors: Mapping[str, Tensor], *, trainable: bool = False
) -> nn.Module:
    """Return a copy of a model with other tensors in the place of its own.

    Args:
        model: The model; left as it is.
        tensors: By name, for all parameters and buffers.
        trainable: Leave parameters trainable that are.
    """
    memo: dict[int, object] = {}
    for name, tensor in named_tensors(model).items():
        new = tensors[name]
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=trainable and tensor.requires_grad)
        memo[id(tensor)] = new
    # Every tensor is taken from the memo, so only the modules themselves are copied, and tied
    # tensors and layers that are used twice stay what they are.
    return copied(model, memo)


def without_weights(model: nn.Module, named: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model whose tensors, given by name, are on the meta device."""
    memo: dict[int, object] = {}
    for tensor in named.values():
        placeholder = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            placeholder = nn.Parameter(placeholder, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = placeholder
    return copied(model, memo).eval()
