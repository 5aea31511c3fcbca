"""The statistics of weights and activations, and the clipping that follows from them (ACIQ)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

_BISECTIONS = 80


def fit_scales(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Model each block as Gaussian and as Laplace around zero, by maximum likelihood.

    ``sigma^2 = E[x^2]`` and ``b = E[|x|]``; the log-likelihood per value is ``-log(sigma sqrt(2 pi
    e))`` and ``-log(2 e b)``.

    Args:
        blocks: Values, shape ``(num_blocks, elements)``.

    Returns:
        The scale sigma, the scale b, and whether the Gaussian is the likelier of the two, each of
        shape ``(num_blocks, 1)``.
    """
    sigma = blocks.square().mean(dim=1, keepdim=True).sqrt()
    scale = blocks.abs().mean(dim=1, keepdim=True)
    is_gaussian = sigma * math.sqrt(2 * math.pi * math.e) <= 2 * math.e * scale
    return sigma, scale, is_gaussian


def optimal_clipping(blocks: Tensor, bits: int) -> Tensor:
    """Return where to clip, by the closed form of the fitted distribution.

    Minimises the expected squared error of ``2^bits`` uniform steps over ``[-a, a]``, the error
    within a step being ``a^2 / (3 4^bits)`` (Banner et al., "Post training 4-bit quantization of
    convolutional networks for rapid-deployment", NeurIPS 2019, section 3.1). Values that are never
    negative, as after a ReLU, are half of a symmetric distribution whose range needs half of the
    steps, so they are worth one bit more (section 3.1, fused ReLU).

    Args:
        blocks: Values, shape ``(num_blocks, elements)``.
        bits: Bits of a code.

    Returns:
        The clipping value a, shape ``(num_blocks, 1)``.
    """
    sigma, scale, is_gaussian = fit_scales(blocks)
    one_sided = blocks.amin(dim=1, keepdim=True) >= 0

    def clipping(effective_bits: int) -> Tensor:
        gaussian = gaussian_clipping(effective_bits) * sigma
        return torch.where(is_gaussian, gaussian, laplace_clipping(effective_bits) * scale)

    return torch.where(one_sided, clipping(bits + 1), clipping(bits))


@functools.cache
def gaussian_clipping(bits: int) -> float:
    """Return the optimal clipping of a Gaussian, in units of sigma.

    With ``a`` in these units the expected squared error is ``(a^2 + 1)(1 - erf(a / sqrt 2)) -
    sqrt(2 / pi) a exp(-a^2 / 2) + a^2 / (3 4^bits)``; this is the zero of its derivative.
    """

    def derivative(a: float) -> float:
        tail = a * math.erfc(a / math.sqrt(2)) - math.sqrt(2 / math.pi) * math.exp(-(a**2) / 2)
        return tail + a / (3 * 4**bits)

    return _zero(derivative)


@functools.cache
def laplace_clipping(bits: int) -> float:
    """Return the optimal clipping of a Laplace distribution, in units of b.

    The expected squared error ``2 exp(-a) + a^2 / (3 4^bits)`` is least where ``a exp(a) = 3
    4^bits``, that is at the Lambert function ``W(3 4^bits)``.
    """
    return _zero(lambda a: a - 3 * 4**bits * math.exp(-a))


def _zero(increasing: Callable[[float], float]) -> float:
    """Return the zero of a function that is negative at zero and positive far out."""
    low, high = 0.0, 64.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return (low + high) / 2
