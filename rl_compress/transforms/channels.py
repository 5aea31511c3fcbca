"""Whole channels: layers become narrower, together with all that share their channels."""

from __future__ import annotations

from collections.abc import Sequence

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance
from rl_compress.importance.units import Units
from rl_compress.model.groups import LayerGroup
from rl_compress.space.search_space import Dimension
from rl_compress.transforms.transform import Effect, ModelView, Scores, Structure


class Channels(Structure):
    """See :class:`Structure`; a site is a group of layers that share channels."""

    name = "channels"
    narrows = True

    def sites(self, view: ModelView) -> list[LayerGroup]:
        """See :meth:`Transform.sites`."""
        return view.channels.groups

    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        """See :meth:`Transform.choices`."""
        per_unit = site.channels // site.num_units
        return Dimension.of_channels(
            site.name, site.num_units, per_unit, self.space.pruning
        ).amounts

    def units(self, view: ModelView, sites: Sequence[LayerGroup]) -> Units:
        """See :meth:`Structure.units`."""
        return Units.channels(view.model, sites)

    def scores(
        self, view: ModelView, sites: Sequence[LayerGroup], by: Importance, evidence: Evidence
    ) -> list[Scores]:
        """See :meth:`Structure.scores`."""
        return by.units(evidence, sites)

    def prepare(self, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
        """See :meth:`Transform.prepare`."""
        return Effect(scores, axes=site.axes)

    def notes(self, view: ModelView) -> list[str]:
        """See :meth:`Structure.notes`."""
        return view.channels.notes
