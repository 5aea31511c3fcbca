"""Parameters."""

from __future__ import annotations

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import CountedModel, Integers, Variants


class Params(Cost):
    """Parameters, without the elements that were made zero."""

    label = "parameters"
    title = "Parameters"

    def look_at(self, model: CountedModel) -> None:
        """See :meth:`Cost.look_at`."""
        self._linear = model.sum_of_elements(model.is_parameter)
        self._counts = model.is_parameter[model.others.rows]

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = self._linear.of(variants) + variants.others.elements @ self._counts
        return total
