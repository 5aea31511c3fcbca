"""Units: the smallest parts of a network that can be removed, and what they scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.model.axes import named_tensors, output_axis
from rl_compress.model.groups import LayerGroup
from rl_compress.model.layers import is_depthwise, is_weighted


@dataclass(frozen=True, slots=True)
class Units:
    """Which unit every element of every weight belongs to."""

    maps: dict[str, Tensor]
    """For each tensor its elements' units, -1 for none, in the tensor's shape."""
    sizes: tuple[int, ...]
    """Units of each group (a layer group, or a weight), in order; units are numbered through."""
    names: tuple[str, ...]
    """Of the groups."""

    @property
    def num_units(self) -> int:
        """Number of units."""
        return sum(self.sizes)

    def unit_names(self) -> list[str]:
        """Return ``group[index]`` of every unit."""
        return [
            f"{name}[{index}]"
            for name, size in zip(self.names, self.sizes, strict=True)
            for index in range(size)
        ]

    def multipliers(self, ratios: Tensor) -> dict[str, Tensor]:
        """Return what each tensor is multiplied by.

        Args:
            ratios: Keep-ratio of every unit, shape ``(num_units,)``.
        """
        # The index -1 picks the one at the end.
        extended = torch.cat([ratios, ratios.new_ones(1)])
        return {name: extended[units] for name, units in self.maps.items()}

    def largest(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the largest absolute value within each unit, shape ``(num_units,)``."""
        found = torch.zeros(self.num_units + 1)
        for name, units in self.maps.items():
            values = tensors[name].detach().abs().float().cpu().reshape(-1)
            places = torch.where(units < 0, self.num_units, units).reshape(-1)
            found.scatter_reduce_(0, places, values, "amax")
        return found[:-1]

    def owners(self) -> list[list[str]]:
        """Return for each unit the tensors that it scales."""
        found: list[list[str]] = [[] for _ in range(self.num_units)]
        for name, units in self.maps.items():
            for unit in units.unique().tolist():
                if unit >= 0:
                    found[unit].append(name)
        return found

    @classmethod
    def weights(cls, model: nn.Module, names: Iterable[str]) -> Units:
        """Make every single weight of some tensors a unit."""
        return cls.blocks(model, names, (1, 1))

    @classmethod
    def blocks(cls, model: nn.Module, names: Iterable[str], shape: tuple[int, int]) -> Units:
        """Make blocks of weights units.

        Args:
            model: The network.
            names: Weights; they are taken as matrices of outputs and inputs (with the kernel).
            shape: Outputs and inputs of a block.

        Raises:
            ConfigError: The blocks do not divide a weight.
        """
        tensors = named_tensors(model)
        return cls.numbered({name: block_map(tensors[name], name, shape) for name in names})

    @classmethod
    def numbered(cls, maps: Mapping[str, Tensor]) -> Units:
        """Number units through, from those of each weight's elements, which begin at 0."""
        sizes = [int(units.max()) + 1 for units in maps.values()]
        numbered = {
            name: torch.where(units < 0, units, units + start)
            for (name, units), start in zip(maps.items(), _starts(sizes), strict=True)
        }
        return cls(numbered, tuple(sizes), tuple(name.removesuffix(".weight") for name in maps))

    @classmethod
    def channels(cls, model: nn.Module, groups: Sequence[LayerGroup]) -> Units:
        """Make the units of layer groups units.

        A channel is scaled where it is read, at the inputs of the layers behind it: scaling it
        where it is made would be undone, or shifted, by a BatchNorm in between. Zero is then as
        good as cut, but for norms over several channels.
        """
        tensors, modules = named_tensors(model), dict(model.named_modules())
        maps: dict[str, Tensor] = {}
        starts = _starts([group.num_units for group in groups])
        for group, start in zip(groups, starts, strict=True):
            for axis in group.axes:
                layer, _, attribute = axis.tensor.rpartition(".")
                if not _reads(modules.get(layer), attribute, axis.axis):
                    continue
                shape = tensors[axis.tensor].shape
                units = maps.setdefault(axis.tensor, torch.full(shape, -1, dtype=torch.long))
                along = torch.full((shape[axis.axis],), -1, dtype=torch.long)
                positions = torch.from_numpy(axis.positions)
                numbers = torch.arange(group.num_units)[:, None] + start
                along[positions] = numbers.expand_as(positions)
                wide = along.reshape(-1, *[1] * (len(shape) - axis.axis - 1)).expand(shape)
                maps[axis.tensor] = torch.where(wide >= 0, wide, units)
        return cls(
            maps, tuple(group.num_units for group in groups), tuple(group.name for group in groups)
        )


def block_map(tensor: Tensor, name: str, shape: tuple[int, int]) -> Tensor:
    """Number the blocks of a weight, row by row; returns the block of each element.

    Raises:
        ConfigError: The blocks do not divide the weight.
    """
    outputs, inputs = len(tensor), tensor.numel() // max(len(tensor), 1)
    if outputs % shape[0] or inputs % shape[1]:
        raise ConfigError(
            f"space.pruning.block_shape: blocks of {shape[0]} x {shape[1]} do not divide {name}, "
            f"which has {outputs} outputs and {inputs} inputs; choose divisors, or list the layer "
            f"in space.skip"
        )
    rows = torch.arange(outputs)[:, None] // shape[0]
    columns = torch.arange(inputs)[None, :] // shape[1]
    return (rows * (inputs // shape[1]) + columns).reshape(tensor.shape)


def _reads(layer: nn.Module | None, attribute: str, axis: int) -> bool:
    """Say whether an axis of a layer's weight runs along the channels that it reads."""
    if attribute != "weight" or not is_weighted(layer) or is_depthwise(layer):
        return False
    return axis == 1 - (output_axis(layer, attribute) or 0)


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:index]) for index in range(len(sizes))]
