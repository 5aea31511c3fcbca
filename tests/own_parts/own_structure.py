"""Structures of a user's own."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rl_compress.model.groups import LayerGroup
from rl_compress.registry import Part
from rl_compress.transforms.channels import Channels
from rl_compress.transforms.weights import Weights


class PowersOfTwo(Channels):
    """Layers keep powers of two of their channels, or all."""

    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        return (*(1 << n for n in range(1, 12) if 1 << n < site.num_units), site.num_units)


class KernelRows(Weights):
    """Rows of kernels go together; the middle one stays where the job says so."""

    class Config(Part.Config):
        keep_middle: bool = Field(default=False)

    def refusal(self, weight: Tensor) -> str | None:
        return None if weight.ndim == 4 else "it has no kernel"

    def parts(self, name: str, weight: Tensor) -> Tensor:
        outputs, inputs, rows, columns = weight.shape
        if not self.config.keep_middle or rows < 3:
            units = torch.arange(outputs * inputs * rows)
            return units.reshape(outputs, inputs, rows, 1).expand(weight.shape)
        units = torch.arange(outputs * inputs * (rows - 1)).reshape(outputs, inputs, rows - 1, 1)
        stays = torch.full((outputs, inputs, 1, 1), -1)
        middle = rows // 2
        whole = torch.cat([units[:, :, :middle], stays, units[:, :, middle:]], dim=2)
        return whole.expand(outputs, inputs, rows, columns)
