"""Polynomial quantization: values are companded by an odd polynomial, then rounded evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_compress.quantizers.quantizer import Parameters, Quantizer, squared_error
from rl_compress.quantizers.ranges import best_of

_BINS = 32
"""Bins of the absolute values from which the polynomial is fitted."""
_SMALLEST_SLOPE = 0.1
"""Least slope of the fitted curve before it is normalised: it must be invertible everywhere."""
_ITERATIONS = 60
_BISECTIONS = 30


class Polynomial(Quantizer):
    """``c(x) = a_1 x + a_3 x^3 + a_5 x^5`` maps ``[-m, m]`` to itself; the grid is even in ``c``.

    The density of levels that has the least squared error is the cube root of the density f of the
    values (Panter and Dite, "Quantization distortion in pulse-count modulation with nonuniform
    spacing of levels", Proc. IRE 1951), so the polynomial is fitted to the integral of ``f^(1/3)``.
    Its derivative is a sum of Bernstein polynomials in ``x^2`` with coefficients that are kept
    above zero, hence the curve is odd, increasing and smooth: order and, within a few levels,
    proportions of the values are kept. Levels are ``c^-1`` of an even grid.
    """

    def fit(self, blocks: Tensor) -> Parameters:
        """Return ``reach``, and ``coefficients`` of shape ``(num_blocks, 3)``."""
        if self.bits == 1:
            reach = blocks.abs().mean(dim=1, keepdim=True)
            straight = reach.new_tensor([[1.0, 0.0, 0.0]]).expand(len(reach), 3).contiguous()
            return {"reach": reach, "coefficients": straight}

        def fitted(reach: Tensor) -> Parameters:
            return {"reach": reach, "coefficients": fit_compander(blocks, reach)}

        def error(reach: Tensor) -> Tensor:
            return squared_error(blocks, self.levels(fitted(reach)))

        return fitted(self.clip(blocks, lambda reaches: best_of(reaches, error)))

    def levels(self, parameters: Parameters) -> Tensor:
        """Return the inverse of the curve at an even grid."""
        reach, coefficients = parameters["reach"], parameters["coefficients"]
        grid = torch.linspace(-1.0, 1.0, self.num_levels, device=reach.device)
        return reach * expand(grid.expand(len(reach), -1), coefficients)


def compand(values: Tensor, coefficients: Tensor) -> Tensor:
    """Return ``c(x)``.

    Args:
        values: x, relative to the reach, in [-1, 1], shape ``(num_blocks, n)``.
        coefficients: a_1, a_3 and a_5, shape ``(num_blocks, 3)``; they add up to 1.
    """
    first, third, fifth = coefficients.split(1, dim=1)
    square = values.square()
    return values * (first + square * (third + square * fifth))


def expand(values: Tensor, coefficients: Tensor) -> Tensor:
    """Return ``c^-1``, by bisection, for values in [-1, 1]; arguments as in :func:`compand`."""
    low, high = torch.zeros_like(values), torch.ones_like(values)
    wanted = values.abs()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = compand(middle, coefficients) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(wanted == 1, wanted, (low + high) / 2) * values.sign()


def fit_compander(blocks: Tensor, reach: Tensor) -> Tensor:
    """Fit the curve to the distribution of absolute values within a reach.

    Args:
        blocks: Values, shape ``(num_blocks, elements)``.
        reach: Where they are clipped, shape ``(num_blocks, 1)``.

    Returns:
        The coefficients, shape ``(num_blocks, 3)``, adding up to 1.
    """
    relative = (blocks.abs() / reach.clamp_min(torch.finfo(reach.dtype).tiny)).clamp(max=1.0)
    bins = (relative * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.zeros(len(blocks), _BINS, dtype=reach.dtype, device=reach.device)
    counts.scatter_add_(1, bins, torch.ones_like(relative))
    density = counts.pow(1 / 3)
    wanted = density.cumsum(dim=1) / density.sum(dim=1, keepdim=True)
    edges = torch.arange(1, _BINS + 1, dtype=reach.dtype, device=reach.device) / _BINS
    # Integrals of the Bernstein polynomials (1 - t)^2, 2 t (1 - t) and t^2 at t = x^2.
    to_power = reach.new_tensor([[1, -2 / 3, 1 / 5], [0, 2 / 3, -2 / 5], [0, 0, 1 / 5]])
    powers = torch.stack([edges, edges**3, edges**5])
    slopes = _non_negative_fit((to_power @ powers).T, wanted)
    coefficients = slopes.clamp_min(_SMALLEST_SLOPE) @ to_power
    return coefficients / coefficients.sum(dim=1, keepdim=True)


def _non_negative_fit(basis: Tensor, wanted: Tensor) -> Tensor:
    """Solve least squares with non-negative unknowns, by projected gradient descent.

    Args:
        basis: Shape ``(points, unknowns)``.
        wanted: Shape ``(num_blocks, points)``.
    """
    gram = basis.T @ basis
    moments = wanted @ basis
    step = 1.0 / torch.linalg.eigvalsh(gram)[-1]
    found = previous = torch.ones_like(moments)
    # Nesterov's momentum: the basis is badly conditioned.
    for iteration in range(_ITERATIONS):
        ahead = found + (iteration / (iteration + 3)) * (found - previous)
        previous, found = found, (ahead - step * (ahead @ gram - moments)).clamp_min(0.0)
    return found
