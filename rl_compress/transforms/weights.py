"""Single weights become zero; also the base of structures in which some go together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, unit_sums
from rl_compress.importance.units import Units
from rl_compress.model.axes import layer_of, quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.model.layers import kind_of
from rl_compress.registry import running
from rl_compress.transforms.transform import KEY, Effect, ModelView, Scores, Structure

_LEVELS = 100
"""Levels of a layer with many units: pruning ratios about one per cent apart."""


class Weights(Structure):
    """See :class:`Structure`; a site is the weight of one convolution or linear layer."""

    def parts(self, name: str, weight: Tensor) -> Tensor:
        """Return the unit of every element of a weight, numbered from 0, in the weight's shape.

        Args:
            name: The weight's.
            weight: Unquantized, outputs first (inputs in transposed convolutions).

        Raises:
            ConfigError: The job's options do not suit the weight.
        """
        return torch.arange(weight.numel()).reshape(weight.shape)

    def refusal(self, weight: Tensor) -> str | None:
        """Say why a weight has no units; None if it has."""
        return None

    def num_units(self, name: str, weight: Tensor) -> int:
        """Return how many units a choice may keep at most."""
        return int(self.parts(name, weight).max()) + 1

    def sites(self, view: ModelView) -> list[LayerGroup]:
        """See :meth:`Transform.sites`."""
        with running(self, KEY):
            return [self._site(view, name) for name in quantizable_weights(view.model)]

    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        """See :meth:`Transform.choices`."""
        smallest = max(1, round(site.num_units * (1.0 - self.space.pruning.max_ratio)))
        steps = min(_LEVELS, site.num_units - smallest)
        amounts = torch.linspace(smallest, site.num_units, steps + 1).round().long().tolist()
        return tuple(dict.fromkeys(amounts))

    def units(self, view: ModelView, sites: Sequence[LayerGroup]) -> Units:
        """See :meth:`Structure.units`."""
        return Units.numbered(self._parts(view, sites))

    def scores(
        self, view: ModelView, sites: Sequence[LayerGroup], by: Importance, evidence: Evidence
    ) -> list[Scores]:
        """See :meth:`Structure.scores`."""
        if evidence.contribution is not None:
            return evidence.contribution.ranking()
        elements = by.weights(evidence)
        return [
            unit_sums(elements[name], units, int(units.max()) + 1)
            for name, units in self._parts(view, sites).items()
        ]

    def prepare(self, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
        """See :meth:`Transform.prepare`."""
        return Effect(scores, elements=self._parts(view, [site]))

    def _parts(self, view: ModelView, sites: Sequence[LayerGroup]) -> dict[str, Tensor]:
        names = [f"{site.name}.weight" if site.name else "weight" for site in sites]
        return {name: self.parts(name, view.model.get_parameter(name)) for name in names}

    def _site(self, view: ModelView, name: str) -> LayerGroup:
        layer, weight = layer_of(name), view.model.get_parameter(name)
        reason, units = view.reason_against(layer) or self.refusal(weight), weight.numel()
        if reason is None:
            units = self.num_units(name, weight)
            reason = "it has no units" if units < 1 else None
        return LayerGroup(
            name=layer,
            layers=(layer,),
            producers=(layer,),
            kind=kind_of(view.model.get_submodule(layer)),
            num_units=units,
            channels=weight.shape[0],
            axes=(),
            reason=reason,
        )
