"""Size."""

from __future__ import annotations

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import CountedModel, Integers, Variants


class SizeBytes(Cost):
    """Bytes of the tensors in the file, buffers too, quantized and sparse ones packed."""

    label = "size"
    title = "Size of the tensors"
    unit = "B"
    bits = ("weight_bits",)

    def look_at(self, model: CountedModel) -> None:
        """See :meth:`Cost.look_at`."""
        self._linear = model.sum_of_elements(model.is_saved * model.own_bits // 8)
        self._counts = model.is_saved[model.others.rows]

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = self._linear.of(variants) + variants.others.stored_bytes @ self._counts
        return total
