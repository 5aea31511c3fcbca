"""Soft thresholding: small weights vanish, and the others come closer to zero."""

from __future__ import annotations

from torch import Tensor


def soft_threshold(values: Tensor, limit: float) -> Tensor:
    """Return ``sign(w) max(|w| - limit, 0)``.

    The minimiser of ``(x - w)^2 / 2 + limit |x|`` (Donoho, "De-noising by soft-thresholding", IEEE
    Transactions on Information Theory 1995), where a hard mask would leave large values as they
    are.

    Args:
        values: w, any shape.
        limit: From 0 on, in the weights' unit.
    """
    return values.sign() * (values.abs() - limit).clamp_min(0.0)
