from __future__ import annotations

import pytest

from rl_compress.report.console import _choices


@pytest.mark.parametrize(
    ("bits", "shown"),
    [([], "–"), ([8], "8"), ([2, 3, 4, 5, 6, 8], "2-6, 8"), ([4, 8, 16], "4, 8, 16")],
)
def test_choices_of_bits_are_short(bits: list[int], shown: str) -> None:
    assert _choices(bits) == shown
