"""Blocks: the parts of a tensor that are quantized with parameters of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.space.space_config import Granularity, QuantizationConfig


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a tensor is cut into blocks."""

    granularity: Granularity
    output_axis: int = 0
    """Axis of the output channels: 0, and 1 in transposed convolutions."""
    group_size: int = 64
    """Weights of a block, with the granularity `group`."""

    @classmethod
    def of(
        cls, config: QuantizationConfig, shape: torch.Size, output_axis: int, name: str
    ) -> Blocking:
        """Return a job's blocking of one tensor.

        Raises:
            ConfigError: The groups do not divide the tensor's inputs.
        """
        inputs = shape.numel() // max(shape[output_axis], 1)
        if config.granularity == "group" and inputs % config.group_size:
            raise ConfigError(
                f"space.quantization.group_size: groups of {config.group_size} weights do not "
                f"divide the {inputs} inputs of each output of {name}; choose a divisor, or "
                f"granularity: channel, or list the layer in space.skip"
            )
        return cls(config.granularity, output_axis, config.group_size)

    def split(self, tensor: Tensor) -> Tensor:
        """Return the tensor's blocks, shape ``(num_blocks, elements)``, inputs along the last."""
        if self.granularity == "tensor":
            return tensor.movedim(self.output_axis, 0).reshape(1, -1)
        rows = tensor.movedim(self.output_axis, 0).flatten(1)
        return rows if self.granularity == "channel" else rows.reshape(-1, self.group_size)

    def join(self, blocks: Tensor, shape: torch.Size) -> Tensor:
        """Undo :meth:`split` for a tensor of a shape."""
        moved = list(shape)
        outputs = moved.pop(self.output_axis)
        return blocks.reshape(outputs, *moved).movedim(0, self.output_axis)
