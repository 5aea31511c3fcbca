"""The interface of all quantizers: parameters are fitted to blocks, and give levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.registry import QUANTIZERS, Part
from rl_compress.space.space_config import QuantizationConfig

Parameters = dict[str, Tensor]
"""What is stored of each block beside its codes: tensors whose first axis is the block."""

Choose = Callable[[Sequence[Tensor]], Tensor]
"""Returns, block by block, the candidate with the least squared error, of equals the first."""

Clip = Callable[[Tensor, Choose], Tensor]
"""Finds how far blocks reach before they are clipped (:mod:`rl_compress.quantizers.ranges`)."""


class Quantizer(Part, ABC):
    """Maps values to the nearest of ``2^bits`` levels, which differ from block to block."""

    def __init__(self, bits: int, clip: Clip) -> None:
        """Set the precision.

        Args:
            bits: Bits of a code, 1 to 8.
            clip: Chooses the range of a block.

        Raises:
            ConfigError: The number of bits is out of range.
        """
        if not 1 <= bits <= 8:
            raise ConfigError(f"a quantizer's bits must be 1 to 8, but got {bits}")
        super().__init__()
        self.bits = bits
        self.clip = clip

    @classmethod
    def configured(cls, bits: int, clip: Clip, config: QuantizationConfig) -> Quantizer:
        """Return one that heeds what a job's `quantization` section says; see ``__init__``."""
        return cls(bits, clip)

    @property
    def name(self) -> str:
        """Return the name by which its class is found again."""
        return QUANTIZERS.name_of(type(self))

    @property
    def identity(self) -> dict[str, Any]:
        """Return, as plain data, what it is made again from."""
        options = self.config.model_dump(mode="json")
        named = {"quantizer": self.name, "bits": self.bits}
        return {**named, "options": options} if options else named

    @property
    def num_levels(self) -> int:
        """Return the number of codes."""
        return 1 << self.bits

    @abstractmethod
    def fit(self, blocks: Tensor) -> Parameters:
        """Fit the parameters to finite values of shape ``(num_blocks, elements)``."""

    @abstractmethod
    def levels(self, parameters: Parameters) -> Tensor:
        """Return every block's levels, increasing, shape ``(num_blocks, num_levels)``.

        A block may have fewer different ones; the last is then repeated.
        """

    def encode(self, blocks: Tensor, parameters: Parameters, *, run: int | None = None) -> Tensor:
        """Return the codes of the nearest levels, bytes of shape ``(num_blocks, elements)``.

        Args:
            blocks: Values.
            parameters: What :meth:`fit` returned.
            run: Consecutive values that belong to one output; only error feedback looks at it.
        """
        return nearest(blocks, self.levels(parameters))

    def decode(self, codes: Tensor, parameters: Parameters) -> Tensor:
        """Return the levels that codes stand for, shape ``(num_blocks, elements)``."""
        return self.levels(parameters).gather(1, codes.long())

    def fake_quantize(self, blocks: Tensor, parameters: Parameters) -> Tensor:
        """Return the values as they are after encoding and decoding."""
        return self.decode(self.encode(blocks, parameters), parameters)


def nearest(blocks: Tensor, levels: Tensor) -> Tensor:
    """Return for each value the index of the nearest level of its block.

    Args:
        blocks: Shape ``(num_blocks, elements)``.
        levels: Increasing, shape ``(num_blocks, num_levels)``.
    """
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    return torch.searchsorted(middles.contiguous(), blocks.contiguous()).to(torch.uint8)


def squared_error(blocks: Tensor, levels: Tensor) -> Tensor:
    """Return the sum of squared distances from the nearest levels, shape ``(num_blocks, 1)``."""
    rounded = levels.gather(1, nearest(blocks, levels).long())
    return (blocks - rounded).square().sum(dim=1, keepdim=True)
