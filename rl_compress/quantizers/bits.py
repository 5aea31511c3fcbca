"""The bits of every layer: fixed, or those of a dimension of the search space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.space.search_space import Amounts, Dimension, Transform
from rl_compress.space.space_config import UNQUANTIZED, QuantizationConfig, SpaceConfig


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Bits of every layer that is quantized, by layer name; the others stay as they are."""

    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)
    """Bits of the layer's inputs."""

    @classmethod
    def same(
        cls,
        model: nn.Module,
        config: QuantizationConfig,
        skips: Callable[[str], bool] = lambda _layer: False,
    ) -> LayerBits:
        """Give all layers of a model the (first) bits that a job names.

        Args:
            model: Its convolutions and linear layers are quantized.
            config: Says to how many bits.
            skips: Says of a layer's name whether it is left as it is.
        """
        layers = [layer_of(name) for name in quantizable_weights(model, skips)]
        return cls(
            _quantized(dict.fromkeys(layers, config.weight_levels[0])),
            _quantized(dict.fromkeys(layers, config.activation_levels[0])),
        )

    def __bool__(self) -> bool:
        """Say whether anything is quantized."""
        return bool(self.weights or self.activations)


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits of one layer's weight, or of its inputs."""

    choices: tuple[int, ...]
    """What they may be, increasing."""
    dimension: int | None = None
    """Index of the dimension that decides; None: there is one choice."""

    def at(self, amounts: Amounts) -> int:
        """Return the bits in a variant, whose units and bits have shape ``(D,)``."""
        return self.choices[0] if self.dimension is None else int(amounts[self.dimension])


@dataclass(frozen=True, slots=True)
class BitPlan:
    """Where the bits of each layer come from; layers that are not named are not quantized."""

    weights: Mapping[str, Bits] = field(default_factory=dict)
    activations: Mapping[str, Bits] = field(default_factory=dict)

    def at(self, amounts: Amounts) -> LayerBits:
        """Return the bits of every layer of a variant.

        Args:
            amounts: Units kept and bits, shape ``(D,)``.
        """
        return LayerBits(
            _quantized({layer: bits.at(amounts) for layer, bits in self.weights.items()}),
            _quantized({layer: bits.at(amounts) for layer, bits in self.activations.items()}),
        )

    @property
    def num_dimensions(self) -> int:
        """Number of dimensions that decide bits."""
        return len({bits.dimension for bits in self._all() if bits.dimension is not None})

    def layers_of(self, dimension: int) -> set[str]:
        """Return the layers whose bits a dimension decides."""
        both = [*self.weights.items(), *self.activations.items()]
        return {layer for layer, bits in both if bits.dimension == dimension}

    def _all(self) -> list[Bits]:
        return [*self.weights.values(), *self.activations.values()]


def plan_bits(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    order: Sequence[str],
    config: SpaceConfig,
    first: int,
) -> tuple[BitPlan, tuple[Dimension, ...]]:
    """Decide where each layer's bits come from.

    Layers that make the channels of one group share its bits; a layer of no group has its own.

    Args:
        model: The network.
        groups: All layer groups, whether they can be pruned or not.
        order: Its convolutions and linear layers that are called, in forward order.
        config: Which bits are searched, and which layers are skipped or protected.
        first: Number of dimensions in front of those for bits.

    Returns:
        The plan, and the dimensions of the weights' bits followed by those of the activations'.
    """
    group_of = {layer: group.name for group in groups for layer in group.producers}
    protected = set(config.protected(order))
    layers = dict.fromkeys([*order, *(layer_of(name) for name in quantizable_weights(model))])
    quantization = config.quantization
    dimensions: list[Dimension] = []

    def plan(transform: Transform, choices: tuple[int, ...]) -> dict[str, Bits]:
        indices: dict[str, int] = {}
        planned: dict[str, Bits] = {}
        for layer in layers:
            name = group_of.get(layer, layer)
            if config.skips(layer):
                continue
            if layer in protected and choices != (UNQUANTIZED,):
                planned[layer] = Bits((config.protected_bits,))
            elif len(choices) == 1:
                planned[layer] = Bits(choices)
            else:
                if name not in indices:
                    indices[name] = first + len(dimensions)
                    dimensions.append(Dimension(name, transform, choices))
                planned[layer] = Bits(choices, indices[name])
        return planned

    weights = plan("weight_bits", quantization.weight_levels)
    activations = plan("activation_bits", quantization.activation_levels)
    return BitPlan(weights, activations), tuple(dimensions)


def _quantized(bits: Mapping[str, int]) -> dict[str, int]:
    return {layer: number for layer, number in bits.items() if number < UNQUANTIZED}
