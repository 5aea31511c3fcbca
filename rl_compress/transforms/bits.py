"""Fewer bits of weights, and of the inputs of layers."""

from __future__ import annotations

from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.model.layers import kind_of
from rl_compress.space.space_config import UNQUANTIZED
from rl_compress.transforms.transform import Effect, ModelView, Scores, Transform


class BitWidths(Transform):
    """Bits of layers; those that make the channels of one group share them."""

    def sites(self, view: ModelView) -> list[LayerGroup]:
        """See :meth:`Transform.sites`; what is protected has bits of its own."""
        group_of = {layer: group.name for group in view.groups for layer in group.producers}
        called = [*view.layers, *(layer_of(name) for name in quantizable_weights(view.model))]
        found: dict[tuple[str, str | None], list[str]] = {}
        for layer in dict.fromkeys(called):
            if self.space.skips(layer):
                continue
            quantizes = self._levels != (UNQUANTIZED,)
            reason = view.reason_against(layer) if quantizes else None
            found.setdefault((group_of.get(layer, layer), reason), []).append(layer)
        return [
            LayerGroup(
                name=name,
                layers=tuple(layers),
                producers=tuple(layers),
                kind=kind_of(view.model.get_submodule(layers[0])),
                num_units=UNQUANTIZED,
                channels=UNQUANTIZED,
                axes=(),
                reason=reason,
            )
            for (name, reason), layers in found.items()
        ]

    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        """See :meth:`Transform.choices`."""
        return self._levels if site.prunable else (self.space.protected_bits,)

    def prepare(self, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
        """See :meth:`Transform.prepare`."""
        return Effect(layers=site.layers)

    @property
    def _levels(self) -> tuple[int, ...]:
        quantization = self.space.quantization
        weights = self.name == "weight_bits"
        return quantization.weight_levels if weights else quantization.activation_levels


class WeightBits(BitWidths):
    """Bits of weights."""

    name = "weight_bits"


class ActivationBits(BitWidths):
    """Bits of what layers read."""

    name = "activation_bits"
