"""Latency as a function of widths: interpolated layer times, plus what surrounds the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from rl_compress.costs.latency_layers import LayerTimes
from rl_compress.model.axes import named_tensors
from rl_compress.model.groups import LayerGroup

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How the time of a whole network follows from that of its layers; nothing is negative.

    In a network, layers find colder caches than alone; normalisations, activations and the like
    take as long as there are elements to go through; and a part is always the same.
    """

    layer_factor: float
    """Multiplies the sum of the layers."""
    ms_per_element: float
    """For each element that the layers put out."""
    fixed_ms: float


class LatencyPredictor:
    """Predicts latencies of many variants at once; monotone in every width."""

    def __init__(
        self,
        layers: Sequence[LayerTimes],
        surroundings: Surroundings,
        model: nn.Module,
        groups: Sequence[LayerGroup],
    ) -> None:
        """Find out how widths decide the shapes of the layers.

        Args:
            layers: What each takes, as measured.
            surroundings: How the whole follows from them.
            model: The uncompressed model, with or without weights.
            groups: The groups that widths refer to.
        """
        tensors = named_tensors(model)
        rows = {layer.weight: row for row, layer in enumerate(layers)}
        self._num_groups = len(groups)
        self._surroundings = surroundings
        # Length of axis d of layer t's weight: fixed[d, t] + per_unit[d, t, :] @ widths.
        self._fixed = np.array(
            [[tensors[layer.weight].shape[axis] for layer in layers] for axis in (0, 1)]
        ).reshape(2, len(layers))
        self._per_unit = np.zeros((2, len(layers), len(groups)), dtype=np.int64)
        for index, group in enumerate(groups):
            for axis in group.axes:
                row = rows.get(axis.tensor)
                if row is not None and axis.axis < 2:
                    self._fixed[axis.axis, row] -= axis.positions.size
                    self._per_unit[axis.axis, row, index] += axis.positions.shape[1]
        self._output_axis = np.array([layer.output_axis for layer in layers], dtype=np.int64)
        self._elements = np.array([layer.elements for layer in layers], dtype=np.float64)
        size = max((max(layer.ms.shape) for layer in layers), default=1) + 1
        self._first = _stacked([layer.first for layer in layers], size)
        self._second = _stacked([layer.second for layer in layers], size)
        self._ms = np.stack([_padded(monotone(layer.ms), size) for layer in layers])

    def predict_ms(self, widths: npt.ArrayLike) -> _Floats:
        """Predict the latency of variants.

        Args:
            widths: Amounts of each, shape ``(N, D)``; what is behind those of the groups, such as
                bits, do not change how long floating-point execution takes.

        Returns:
            Milliseconds for a batch of the table's size, shape ``(N,)``.
        """
        sums, elements = self.parts(widths)
        around = self._surroundings
        return around.layer_factor * sums + around.ms_per_element * elements + around.fixed_ms

    def parts(self, widths: npt.ArrayLike) -> tuple[_Floats, _Floats]:
        """Return the sum of all layers' times, in ms, and the elements they put out, each (N,)."""
        vectors = np.asarray(widths, dtype=np.int64)[:, : self._num_groups]
        lengths = self._fixed[:, None, :] + np.einsum("atg,ng->ant", self._per_unit, vectors)
        low_1, share_1 = _position(self._first, lengths[0])
        low_2, share_2 = _position(self._second, lengths[1])
        row = np.arange(len(self._ms))
        ms = (1 - share_1) * (
            (1 - share_2) * self._ms[row, low_1, low_2] + share_2 * self._ms[row, low_1, low_2 + 1]
        ) + share_1 * (
            (1 - share_2) * self._ms[row, low_1 + 1, low_2]
            + share_2 * self._ms[row, low_1 + 1, low_2 + 1]
        )
        outputs = lengths[self._output_axis, :, row].T
        return ms.sum(axis=1), outputs @ self._elements


def monotone(ms: _Floats) -> _Floats:
    """Return the nearest times that do not fall where a layer is wider, shape ``(n, m)``.

    The middle between the running maximum from the narrowest layer on and the running minimum from
    the widest on: no monotone table has a smaller largest deviation.
    """
    upper = np.maximum.accumulate(np.maximum.accumulate(ms, axis=0), axis=1)
    turned = ms[::-1, ::-1]
    lower = np.minimum.accumulate(np.minimum.accumulate(turned, axis=0), axis=1)[::-1, ::-1]
    return (upper + lower) / 2


def _position(
    grids: _Floats, lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], _Floats]:
    """Return the index below each length on its layer's grid, and how far it is to the next.

    Args:
        grids: Shape ``(layers, size)``, increasing.
        lengths: Shape ``(N, layers)``; below the first on the grid it counts as that.
    """
    low = (lengths[:, :, None] >= grids[None]).sum(axis=2) - 1
    low = np.clip(low, 0, grids.shape[1] - 2)
    row = np.arange(len(grids))
    start, end = grids[row, low], grids[row, low + 1]
    return low, np.clip((lengths - start) / (end - start), 0.0, 1.0)


def _stacked(grids: Sequence[npt.NDArray[np.int64]], size: int) -> _Floats:
    """Extend grids to one size, by steps that no length reaches."""
    return np.array(
        [[*grid, *(grid[-1] + 1 + np.arange(size - len(grid)))] for grid in grids], dtype=np.float64
    )


def _padded(ms: _Floats, size: int) -> _Floats:
    return np.pad(ms, [(0, size - length) for length in ms.shape], mode="edge")
