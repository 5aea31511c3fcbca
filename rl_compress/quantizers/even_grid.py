"""Even grids: values are rounded by arithmetic, to the very level that a table would give.

A table is searched value by value; these few operations over many values at once take a tenth of
the time and less. That matters, for a scale is found by rounding a weight to some thirty grids.
Most of those are told apart by errors that are not exact to the last bit, which is quicker still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PART = (1 << 15) - 1
"""Values that are rounded at a time: they stay in the processor's cache from one operation to the
next, and are too few for torch to share them out, which costs more than it saves."""

_NEAR = 1.005
"""Rough errors up to so many times the least are told apart by exact ones; they are wrong by a
thousandth at most."""
_SMALLEST, _LARGEST = 1e-30, 1e36
"""Sums of squares between which no square that counts is rounded to zero or to infinity."""


@dataclass(frozen=True, slots=True)
class EvenGrid:
    """Levels ``minimum + scale q``, with whole q from ``lowest`` to ``highest``."""

    scale: Tensor
    """Shape ``(num_blocks, 1)``."""
    lowest: int
    highest: int
    """Above ``lowest``."""
    minimum: Tensor | None = None
    """Shape ``(num_blocks, 1)``; None: 0."""

    def squared_error(self, blocks: Tensor) -> Tensor:
        """Return the sum of squared distances from the nearest levels, shape ``(num_blocks, 1)``.

        Args:
            blocks: Shape ``(num_blocks, elements)``.
        """
        squares = torch.empty_like(blocks)
        for part, rows in _parts(blocks):
            values, grid = blocks[part], self.of(rows)
            torch.square(grid._at(grid._nearest(values)).sub_(values), out=squares[part])
        # In one sum: parts of it would round differently.
        return squares.sum(dim=1, keepdim=True)

    def rough_error(self, blocks: Tensor) -> Tensor:
        """Return the same but for rounding, NaN or 0 where all levels are one."""
        total, inverse = torch.zeros_like(self.scale), 1 / self.scale
        for part, rows in _parts(blocks):
            values = blocks[part]
            shifted = values if self.minimum is None else values - self.minimum[rows]
            steps = shifted * inverse[rows]
            away = steps.round().clamp_(self.lowest, self.highest).sub_(steps)
            total[rows] += torch.linalg.vector_norm(away, dim=1, keepdim=True).square_()
        return total * self.scale.square()

    def codes(self, blocks: Tensor) -> Tensor:
        """Return ``q - lowest`` of the nearest levels, bytes of shape ``(num_blocks, elements)``.

        Args:
            blocks: Finite values, same shape.
        """
        codes = torch.empty_like(blocks, dtype=torch.uint8)
        for part, rows in _parts(blocks):
            codes[part] = self.of(rows)._nearest(blocks[part]).sub_(self.lowest)
        if (flat := self.scale[:, 0] == 0).any():
            # All levels are one, and a table's first and last are found from below and from above.
            level = 0 if self.minimum is None else self.minimum[flat]
            codes[flat] = (blocks[flat] > level) * codes.new_tensor(self.highest - self.lowest)
        return codes

    def of(self, rows: slice | Tensor) -> EvenGrid:
        """Return the grids of some blocks."""
        minimum = None if self.minimum is None else self.minimum[rows]
        return EvenGrid(self.scale[rows], self.lowest, self.highest, minimum)

    def _nearest(self, values: Tensor) -> Tensor:
        """Return q, as floats, of the nearest levels; of two as near the lower."""
        # The division is rounded, but a value that lands in the wrong interval is next to the level
        # between both, and half of an interval away from where its neighbour would be nearer.
        divisor = torch.where(self.scale > 0, self.scale, 1)
        shifted = values if self.minimum is None else values - self.minimum
        below = torch.div(shifted, divisor).floor_().clamp_(self.lowest, self.highest - 1)
        middle = self._at(below + 1).add_(self._at(below.clone())).mul_(0.5)
        return below.add_(torch.gt(values, middle, out=middle))

    def _at(self, steps: Tensor) -> Tensor:
        """Turn q into levels, in place."""
        steps.mul_(self.scale)
        return steps if self.minimum is None else steps.add_(self.minimum)


def least_even(
    blocks: Tensor, candidates: Sequence[Tensor], grid_at: Callable[[Tensor], EvenGrid]
) -> Tensor:
    """Return, block by block, the candidate of the least squared error, and of equals the first.

    Args:
        blocks: Shape ``(num_blocks, elements)``.
        candidates: Each of shape ``(num_blocks, 1)``.
        grid_at: Returns the grids of a candidate.
    """
    grids = [grid_at(candidate) for candidate in candidates]
    rough = torch.cat([grid.rough_error(blocks) for grid in grids], dim=1)
    least = rough.amin(dim=1, keepdim=True)
    sound = (least > _SMALLEST) & (least < _LARGEST)
    near = ~sound | (rough <= _NEAR * least)
    near &= near.sum(dim=1, keepdim=True) > 1
    first = torch.where(sound, rough.argmin(dim=1, keepdim=True), 0)
    best = torch.cat(list(candidates), dim=1).gather(1, first)
    exact = torch.full_like(best, torch.inf)
    for column, (candidate, grid) in enumerate(zip(candidates, grids, strict=True)):
        rows = near[:, column].nonzero()[:, 0]
        if len(rows) == 1 < len(blocks):
            # A sum over one row alone may be shared out to threads, and round differently.
            rows = rows.repeat(2)
        found = grid.of(rows).squared_error(blocks[rows])
        better = found < exact[rows]
        best[rows] = torch.where(better, candidate[rows], best[rows])
        exact[rows] = torch.minimum(found, exact[rows])
    return best


def _parts(blocks: Tensor) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Cut blocks into parts of a size that suits the processor; also return the rows of each."""
    rows, columns = blocks.shape
    part = _PART if blocks.device.type == "cpu" else blocks.numel()
    width = max(1, min(columns, part))
    height = max(1, part // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            band = slice(top, top + height)
            yield (band, slice(left, left + width)), band
