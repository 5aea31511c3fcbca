from __future__ import annotations

import numpy as np
import pytest

from rl_compress.costs.lazy import LazyCosts


def test_a_cost_is_worked_out_once_and_only_if_asked_for() -> None:
    made: list[str] = []

    def recipe(name: str, value: int):
        def make() -> np.ndarray:
            made.append(name)
            return np.array([value])

        return make

    costs = LazyCosts({"macs": recipe("macs", 3), "bops": recipe("bops", 5)})
    assert list(costs) == ["macs", "bops"]
    assert len(costs) == 2
    assert made == []
    assert costs["bops"].tolist() == costs["bops"].tolist() == [5]
    assert made == ["bops"]
    with pytest.raises(KeyError):
        costs["latency_ms"]
