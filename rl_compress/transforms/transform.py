"""Transforms: the ways to make a site of a model smaller.

A transform finds its sites, says which choices each has, and tells as plain data what they do. The
shared network makes variants by this data and the costs are counted from it, so that the two cannot
differ; and neither workers nor a delivered model need the transform's own code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance
from rl_compress.importance.units import Units
from rl_compress.model.axes import Axis
from rl_compress.model.graph import Graph, trace
from rl_compress.model.groups import FoundGroups, LayerGroup, quantizable_layers
from rl_compress.model.nested import Inputs
from rl_compress.registry import TRANSFORMS, Part, running
from rl_compress.space.space_config import SpaceConfig, parse_n_of_m

Scores = npt.NDArray[np.float64]

KEY = "space.pruning.structure"


@dataclass
class ModelView:
    """A model as transforms see it; what takes computation is computed when asked for."""

    model: nn.Module
    """On the CPU, in evaluation mode; to be left as it is."""
    example_inputs: Inputs
    space: SpaceConfig
    prove: Callable[[], FoundGroups]
    """Finds the groups of channels, and holds them against the model."""
    groups: Sequence[LayerGroup] = ()
    """The sites of what prunes, whether they can be pruned or not; the bits of each go together."""

    @cached_property
    def channels(self) -> FoundGroups:
        """Groups of layers that share channels, proved."""
        return self.prove()

    @cached_property
    def graph(self) -> Graph:
        """What a forward pass of one sample does."""
        known: FoundGroups | None = self.__dict__.get("channels")
        return known.graph if known else trace(self.model, self.example_inputs)

    @cached_property
    def layers(self) -> list[str]:
        """Convolutions and linear layers that are called, in forward order."""
        return quantizable_layers(self.model, self.graph.order)

    @cached_property
    def protected(self) -> list[str]:
        """Those of them that are protected."""
        return self.space.protected(self.layers)

    def reason_against(self, layer: str) -> str | None:
        """Say why the job leaves a layer as it is; None if it does not."""
        if self.space.skips(layer):
            return f"{layer} is listed in space.skip"
        return self.space.protection_of(layer, self.protected) if layer in self.protected else None


@dataclass(frozen=True, slots=True)
class Effect:
    """What the choices of a site do.

    A choice of a site that has units keeps as many of them, the most important first; any other
    choice is the bits of the site's layers.
    """

    scores: Scores = field(default_factory=lambda: np.zeros(0))
    """Importance of the units, shape ``(num_units,)``."""
    axes: tuple[Axis, ...] = ()
    """Positions that go with each unit: layers become narrower."""
    elements: Mapping[str, Tensor] = field(default_factory=dict)
    """By weight the unit of each element, which becomes zero with it; -1 for those that stay."""
    layers: tuple[str, ...] = ()
    """Those that have the bits chosen."""


class Transform(Part, ABC):
    """One way to make sites smaller."""

    name: ClassVar[str]
    """What the search space calls it."""

    def __init__(self, space: SpaceConfig, config: Any = None) -> None:
        """Keep what the job says.

        Args:
            space: Its `space` section.
            config: The options, an instance of ``Config``.
        """
        super().__init__(config)
        self.space = space

    @abstractmethod
    def sites(self, view: ModelView) -> list[LayerGroup]:
        """Find the sites of a model, in forward order; those that stay have a reason.

        Raises:
            ConfigError: The job's options do not suit the model.
        """

    @abstractmethod
    def choices(self, site: LayerGroup) -> tuple[int, ...]:
        """Return the units that a site may keep, or its bits, increasing; the last is all."""

    @abstractmethod
    def prepare(self, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
        """Tell what the choices of a site do.

        Args:
            view: The model.
            site: One of :meth:`sites`.
            scores: Its own of :meth:`Structure.scores`; nothing where there are no units.
        """


class Structure(Transform):
    """A transform that removes the units of a site that matter least."""

    name = "sparsity"
    narrows: ClassVar[bool] = False
    """Whether layers become narrower; else elements of weights become zero."""
    any_units: ClassVar[bool] = True
    """Whether any units of a site may go, as a mask decides, or only the least important."""

    @abstractmethod
    def units(self, view: ModelView, sites: Sequence[LayerGroup]) -> Units:
        """Return what can be removed singly, site by site, for contributions to be measured."""

    @abstractmethod
    def scores(
        self, view: ModelView, sites: Sequence[LayerGroup], by: Importance, evidence: Evidence
    ) -> list[Scores]:
        """Score what :meth:`units` tells of each site, higher being more important."""

    def notes(self, view: ModelView) -> list[str]:
        """Return what else the user should know of the model's layers."""
        return []


def told(structure: Structure, view: ModelView, site: LayerGroup, scores: Scores) -> Effect:
    """Return what a structure says of a site, if it can be true.

    Raises:
        ConfigError: It cannot, or the structure's own code fails.
    """
    with running(structure, KEY):
        effect, choices = structure.prepare(view, site, scores), structure.choices(site)
    units, tensors = len(effect.scores), dict(view.model.named_parameters())
    problem = None
    least = int(structure.narrows)
    if units != site.num_units:
        problem = f"must score each of the {site.num_units} units, not {units}"
    elif [*choices] != sorted({units, *choices}) or choices[0] < least or choices[-1] > units:
        problem = f"must have increasing choices up to all {units} units, but has {choices}"
    for name, elements in effect.elements.items():
        if elements.shape != tensors[name].shape:
            problem = f"must tell the unit of each element of {name}, {(*tensors[name].shape,)}"
        elif int(elements.min()) < -1 or int(elements.max()) >= units:
            problem = f"must number the units of {name} from 0 to {units - 1}"
    if problem:
        raise ConfigError(f"{KEY}: {type(structure).__name__} {problem}, for {site.name}")
    return effect


def make_structure(space: SpaceConfig) -> Structure:
    """Return what a job prunes.

    Raises:
        ConfigError: There is no such structure or option.
    """
    name = space.pruning.structure
    made, options = TRANSFORMS.load(
        "N:M" if parse_n_of_m(name) else name,
        space.pruning.structure_options,
        key=KEY,
    )
    structure: Structure = made(space, options)
    return structure
