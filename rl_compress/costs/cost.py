"""Costs: what a budget may bound, counted from what a variant consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy.typing as npt

from rl_compress.costs.counted import CountedModel, Variants
from rl_compress.registry import Part


class Cost(Part, ABC):
    """A figure of variants that is known before they are built.

    It must not fall where more is kept: budgets rely on it.
    """

    label: ClassVar[str]
    """What a sentence calls it: "30 % of the MACs"; by default the name of the class."""
    title: ClassVar[str]
    """What a table or an axis calls it; by default the label."""
    unit: ClassVar[str] = ""
    """What a value carries, such as `B`, `ms` or `mJ`."""
    bits: ClassVar[tuple[str, ...]] = ()
    """The bits it counts, `weight_bits` and `activation_bits`: `auto` searches them for it."""
    predicted: ClassVar[bool] = False
    """Whether it is known only where something predicts it."""

    def __init_subclass__(cls) -> None:
        """Fill in what a class does not say."""
        cls.label = cls.__dict__.get("label", cls.__name__)
        cls.title = cls.__dict__.get("title", cls.label)

    def look_at(self, model: CountedModel) -> None:
        """Prepare what is the same for all variants of a model."""
        self.model = model

    @abstractmethod
    def of(self, variants: Variants) -> npt.NDArray[Any]:
        """Return the cost of each variant, shape ``(variants,)``: integers where it is exact."""
