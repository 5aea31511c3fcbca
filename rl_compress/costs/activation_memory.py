"""Peak activation memory of every variant, from one traced forward pass of the target.

What is alive while an operation runs was seen in the uncompressed model; each piece of memory is as
large as the axes of the tensor that lies in it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rl_compress.costs.axis_lengths import AxisLengths, Products
from rl_compress.model.graph import Activation, Graph
from rl_compress.model.positions import varies


class ActivationMemory:
    """Peak activation memory as a function of widths, in eager execution without gradients.

    An activation is freed as soon as nothing refers to it; inputs count, parameters and buffers do
    not.
    """

    def __init__(self, graph: Graph, lengths: AxisLengths) -> None:
        """Work out how large each activation is.

        Args:
            graph: Of the uncompressed model, for one sample.
            lengths: Of its axes.
        """
        num_groups = len(lengths.groups)
        # Most activations have one axis that moves, so what is alive is linear in the widths.
        linear = np.zeros((len(graph.activations), 1 + num_groups))
        others: list[tuple[float, list[tuple[int, dict[int, int]]], int]] = []
        for number, activation in enumerate(graph.activations):
            moving, per_element = _moving(activation, lengths)
            if len(moving) > 1:
                others.append((per_element, moving, number))
                continue
            constant, units = moving[0] if moving else (1, {})
            linear[number, 0] = constant * per_element
            for group, count in units.items():
                linear[number, 1 + group] = count * per_element
        self._rest = Products.of([moving for _, moving, _ in others], num_groups)
        rows = []
        for alive in graph.alive or [tuple(range(len(graph.activations)))]:
            present = set(alive)
            rest = [size * (number in present) for size, _, number in others]
            rows.append(np.concatenate([linear[list(alive)].sum(axis=0), rest]))
        # Operations with the same live activations need to be looked at once.
        table = np.unique(np.array(rows), axis=0)
        self._fixed, self._per_unit = table[:, 0], table[:, 1 : 1 + num_groups]
        self._of_rest = table[:, 1 + num_groups :]

    def peak_bytes(self, units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the bytes alive at the worst moment of a forward pass of one sample.

        Args:
            units: Units kept in each group, shape ``(variants, num_groups)``.

        Returns:
            Shape ``(variants,)``.
        """
        alive = self._fixed + units.astype(np.float64) @ self._per_unit.T
        if self._of_rest.shape[1]:
            alive = alive + self._rest.of_widths(units) @ self._of_rest.T
        return np.rint(alive.max(axis=-1)).astype(np.int64)


def _moving(
    activation: Activation, lengths: AxisLengths
) -> tuple[list[tuple[int, dict[int, int]]], float]:
    """Return the axes of an activation that become narrower, and the bytes of the rest."""
    moving, full = [], []
    for ids in activation.labels:
        if ids is None or not varies(ids):
            continue
        constant, units = lengths.of(ids)
        if units:
            moving.append((constant, dict(units)))
            full.append(len(ids))
    return moving, activation.nbytes / math.prod(full)
