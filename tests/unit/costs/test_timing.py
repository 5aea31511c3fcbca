from __future__ import annotations

import itertools
import time

import pytest

from rl_compress.costs.timing import interleaved
from rl_compress.errors import ConfigError


def test_calls_take_turns_and_keep_their_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = itertools.count(step=0.001)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = [lambda name=name: order.append(name) for name in "ab"]
    found = interleaved(calls, warmup=1, repeats=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert found[0].quartiles == pytest.approx((1.0, 1.0))
    with pytest.raises(ConfigError, match="at least 1"):
        interleaved(calls, warmup=0, repeats=0)
