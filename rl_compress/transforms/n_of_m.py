"""All but N of every M weights along the inputs become zero, as hardware can make use of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rl_compress.errors import ConfigError
from rl_compress.model.groups import LayerGroup
from rl_compress.space.space_config import SpaceConfig, parse_n_of_m
from rl_compress.transforms.transform import Effect, ModelView, Scores
from rl_compress.transforms.weights import Weights


class NOfM(Weights):
    """See :class:`Weights`; weights are scored singly, and a unit is a rank among M neighbours."""

    any_units = False

    def __init__(self, space: SpaceConfig, config: Any = None) -> None:
        """See :meth:`Transform.__init__`."""
        super().__init__(space, config)
        pattern = parse_n_of_m(space.pruning.structure)
        if pattern is None:
            raise ConfigError(
                f"space.pruning.structure: write numbers for {space.pruning.structure}, as 2:4"
            )
        self._pattern = pattern

    def refusal(self, weight: Tensor) -> str | None:
        """See :meth:`Weights.refusal`."""
        inputs, of = weight.numel() // max(len(weight), 1), self._pattern[1]
        return f"its {inputs} inputs are no multiple of {of}" if inputs % of else None

    def num_units(self, name: str, weight: Tensor) -> int:
        """See :meth:`Weights.num_units`."""
        return self._pattern[1]

    def sites(self, view: ModelView) -> list[LayerGroup]:
        """See :meth:`Transform.sites`.

        Raises:
            ConfigError: The pattern fits no layer.
        """
        found = super().sites(view)
        if not any(site.prunable for site in found):
            raise ConfigError(
                f"space.pruning.structure: {self.space.pruning.structure} fits no layer, for its "
                f"inputs must be a multiple of {self._pattern[1]}; choose another structure"
            )
        return found

    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        """See :meth:`Transform.choices`."""
        return self._pattern

    def prepare(self, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
        """See :meth:`Transform.prepare`."""
        neighbours = torch.from_numpy(scores).reshape(-1, self._pattern[1])
        order = neighbours.argsort(dim=1, descending=True, stable=True)
        ranked = neighbours.gather(1, order).numpy().mean(axis=0)
        (name, parts), *_ = self._parts(view, [site]).items()
        return Effect(ranked, elements={name: order.argsort(dim=1).reshape(parts.shape)})
