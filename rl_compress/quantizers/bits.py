"""The bits of every layer: fixed, or those of a dimension of the search space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.space.search_space import Amounts
from rl_compress.space.space_config import UNQUANTIZED, QuantizationConfig


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


def _quantized(bits: Mapping[str, int]) -> dict[str, int]:
    return {layer: number for layer, number in bits.items() if number < UNQUANTIZED}
