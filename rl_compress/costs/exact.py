"""Costs that are exact: they are counted from what a variant consists of."""

from __future__ import annotations

import numpy as np

from rl_compress.costs.cost import Cost
from rl_compress.costs.counted import CountedModel, Integers, Variants


class Macs(Cost):
    """Multiply-accumulate operations of a forward pass of one sample; zeros take none."""

    label = "MACs"
    title = "MACs per sample"

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = variants.macs.sum(axis=1)
        return total


class Params(Cost):
    """Parameters, without the elements that were made zero."""

    label = "parameters"
    title = "Parameters"

    def look_at(self, model: CountedModel) -> None:
        """See :meth:`Cost.look_at`."""
        self._least, self._slope = model.linear_sum(model.is_parameter)
        self._counts = model.is_parameter[model.others.rows]

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        linear: Integers = self._least + variants.units @ self._slope
        return linear + variants.others.elements @ self._counts


class SizeBytes(Cost):
    """Bytes of the tensors in the file, buffers too, quantized and sparse ones packed."""

    label = "size"
    title = "Size of the tensors"
    unit = "B"
    bits = ("weight_bits",)

    def look_at(self, model: CountedModel) -> None:
        """See :meth:`Cost.look_at`."""
        self._least, self._slope = model.linear_sum(model.is_saved * model.own_bits // 8)
        self._counts = model.is_saved[model.others.rows]

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        linear: Integers = self._least + variants.units @ self._slope
        return linear + variants.others.stored_bytes @ self._counts


class Bops(Cost):
    """MACs times the bits of both factors; what has no weight is not quantized."""

    label = "bit operations"
    title = "Bit operations per sample"
    bits = ("weight_bits", "activation_bits")

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        total: Integers = np.einsum("vr,vr->v", variants.macs, variants.bits_per_mac)
        return total


class PeakMemoryBytes(Cost):
    """Most bytes of activations alive at once in a forward pass of one sample."""

    label = "activation memory"
    title = "Peak activation memory"
    unit = "B"

    def of(self, variants: Variants) -> Integers:
        """See :meth:`Cost.of`."""
        return variants.model.memory.peak_bytes(variants.units)
