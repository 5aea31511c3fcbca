"""Cumulative shift quantization: rounding errors are carried on, and scales are powers of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rl_compress.quantizers.even_grid import EvenGrid, least_even
from rl_compress.quantizers.quantizer import Clip, Parameters, Quantizer, squared_error
from rl_compress.quantizers.ranges import best_of
from rl_compress.quantizers.symmetric import symmetric_grid
from rl_compress.space.space_config import QuantizationConfig

_CARRIED = 1 / math.pi
"""Share of an error that is carried on."""

_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126.0, 127.0
"""Exponents of normal float32 numbers."""


class CumulativeShift(Quantizer):
    """A symmetric grid of step ``2^e``, so that scaling is a shift, with error feedback.

    Along the inputs of an output, each weight is rounded together with the error that those before
    it left behind: ``q_i = round((w_i + a_i) / 2^e)``, ``a_(i+1) = c (w_i + a_i - 2^e q_i)``, the
    carried error being bounded to one step where the grid ends. The errors of neighbours then
    cancel in sums over inputs of equal sign, which is what activations after a ReLU are; the
    principle is that of error diffusion (Floyd and Steinberg, 1976).

    Carrying all of the error, ``c = 1``, removes its sum but doubles its sum of squares. For
    independent inputs of mean m the error of the output is least at ``c = m^2 / E[x^2]``: with r
    the variance of one rounding it is ``n r ((1 + c^2) (E[x^2] - m^2) + (1 - c)^2 m^2)``. A ReLU
    behind centred normal values has ``m^2 = 1 / (2 pi)`` and ``E[x^2] = 1 / 2``, hence the share
    ``c = 1 / pi`` that is used here.

    ``|w_i + a_i|`` is the weight's *contribution*: with what the accumulated error adds to it, this
    is what its output would miss. Weights whose contribution is below ``threshold`` times the
    largest of their block become zero, and are carried on in part as any error is.
    """

    def __init__(self, bits: int, clip: Clip, threshold: float = 0.0) -> None:
        """Set the precision.

        Args:
            bits: Bits of a code, 1 to 8. With one bit no weight is pruned: there is no zero.
            clip: Chooses the range of a block.
            threshold: Relative contribution below which weights are pruned, from 0 on.
        """
        super().__init__(bits, clip)
        self.threshold = threshold

    @classmethod
    def configured(cls, bits: int, clip: Clip, config: QuantizationConfig) -> CumulativeShift:
        """See :meth:`Quantizer.configured`."""
        return cls(bits, clip, config.contribution_threshold)

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``exponent``, signed bytes of shape ``(num_blocks, 1)``."""
        largest = max((self.num_levels >> 1) - 1, 1)

        def grid(exponent: Tensor) -> EvenGrid:
            return EvenGrid(torch.exp2(exponent), -largest, largest)

        def choose(reaches: Sequence[Tensor]) -> Tensor:
            return least_even(blocks, reaches, lambda reach: grid(_log2(reach / largest)))

        def error(exponent: Tensor) -> Tensor:
            return squared_error(blocks, self.levels({"exponent": exponent}))

        if self.bits == 1:
            ideal = _log2(blocks.abs().mean(dim=1, keepdim=True))
        else:
            ideal = _log2(self.clip(blocks, choose) / largest)
        # The nearest powers of two below and above; of equal errors the upper, which clips less.
        exponent = best_of([ideal.ceil(), ideal.floor()], error)
        return {"exponent": exponent.to(torch.int8)}

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the grid."""
        step = torch.exp2(parameters["exponent"].to(torch.float32))
        return step * symmetric_grid(self.bits, step)

    def encode(self, blocks: Tensor, parameters: Parameters, *, run: int | None = None) -> Tensor:
        """Round with error feedback along runs of ``run`` values, by default whole blocks."""
        num_blocks, elements = blocks.shape
        run = run or elements
        levels = self.levels(parameters)
        step = torch.exp2(parameters["exponent"].to(torch.float32))
        limit = self.threshold * blocks.abs().amax(dim=1, keepdim=True)
        zero = (self.num_levels >> 1) - 1
        pruned = limit > 0 if self.bits > 1 else torch.zeros_like(limit, dtype=torch.bool)
        # One row for each run; all of them advance together.
        rows = blocks.reshape(num_blocks, -1, run)
        middles = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        codes = torch.empty(rows.shape, dtype=torch.uint8, device=blocks.device)
        carried = torch.zeros(rows.shape[:2], dtype=blocks.dtype, device=blocks.device)
        for position in range(run):
            wanted = rows[:, :, position] + carried
            code = torch.searchsorted(middles, wanted.contiguous())
            code = torch.where(pruned & (wanted.abs() < limit), zero, code)
            codes[:, :, position] = code.to(torch.uint8)
            # What lies beyond the grid must not pile up.
            carried = _CARRIED * (wanted - levels.gather(1, code)).clamp(-step, step)
        return codes.reshape(num_blocks, elements)


def _log2(values: Tensor) -> Tensor:
    smallest = 2.0**_SMALLEST_EXPONENT
    return values.clamp_min(smallest).log2().clamp(_SMALLEST_EXPONENT, _LARGEST_EXPONENT)
