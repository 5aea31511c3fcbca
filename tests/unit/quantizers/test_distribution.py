from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl_compress.quantizers.distribution import (
    fit_scales,
    gaussian_clipping,
    laplace_clipping,
    optimal_clipping,
)


def _expected_error(density: str, reach: float, bits: int) -> float:
    """Integrate the squared clipping error numerically and add that of rounding."""
    x = np.linspace(reach, reach + 60, 40_001)
    tail = {
        "laplace": np.exp(-x) / 2,
        "gaussian": np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    }[density]
    clipped = 2 * np.trapezoid((x - reach) ** 2 * tail, x)
    return float(clipped + reach**2 / (3 * 4**bits))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("density", ["gaussian", "laplace"])
def test_the_closed_form_has_the_least_expected_error(density: str, bits: int) -> None:
    found = {"gaussian": gaussian_clipping, "laplace": laplace_clipping}[density](bits)
    least = _expected_error(density, found, bits)
    for other in np.linspace(0.3, 2.0, 30) * found:
        assert least <= _expected_error(density, float(other), bits) + 1e-9


def test_published_clipping_values_of_a_laplace_distribution() -> None:
    # Banner et al., section 3.1, give 2.83, 3.89 and 5.03 b for 2, 3 and 4 bits.
    assert [round(laplace_clipping(bits), 2) for bits in (2, 3, 4)] == [2.83, 3.9, 5.03]


def test_the_likelier_distribution_is_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    gauss = 2 * torch.randn(1, 20_000, generator=generator)
    uniform = torch.rand(1, 20_000, generator=generator) - 0.5
    laplace = -3 * uniform.sign() * torch.log1p(-2 * uniform.abs() * 0.99999)
    sigma, scale, is_gaussian = fit_scales(torch.cat([gauss, laplace]))
    assert is_gaussian.flatten().tolist() == [True, False]
    assert sigma[0].item() == pytest.approx(2, rel=0.03)
    assert scale[1].item() == pytest.approx(3, rel=0.03)
    found = optimal_clipping(torch.cat([gauss, laplace]), 4)
    assert found[0].item() == pytest.approx(2 * gaussian_clipping(4), rel=0.03)
    assert found[1].item() == pytest.approx(3 * laplace_clipping(4), rel=0.03)


def test_values_after_a_relu_are_worth_a_bit_more() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 20_000, generator=generator).abs()
    assert optimal_clipping(values, 3).item() == pytest.approx(gaussian_clipping(4), rel=0.03)
