from __future__ import annotations

import numpy as np
import pytest

from rl_compress.costs.lazy import LazyCosts


def test_a_cost_is_worked_out_once_and_only_if_asked_for() -> None:
    made: list[str] = []

    def find(name: str) -> np.ndarray:
        made.append(name)
        return np.array([len(name)])

    costs = LazyCosts(("macs", "params"), find)
    assert list(costs) == ["macs", "params"]
    assert len(costs) == 2
    assert made == []
    assert costs["params"].tolist() == costs["params"].tolist() == [6]
    assert made == ["params"]
    with pytest.raises(KeyError):
        costs["latency_ms"]
