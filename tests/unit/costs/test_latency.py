from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from rl_compress.costs.latency import (
    device_name,
    interleaved_latency_ms,
    measure_latency_ms,
)
from rl_compress.errors import ConfigError


class Sleeper(nn.Module):
    """Takes a known time, and counts its passes."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds[self.passes % len(self.seconds)])
        self.passes += 1
        return x


INPUTS = (torch.zeros(1, 3),)


def test_latency_is_the_median_in_milliseconds() -> None:
    model = Sleeper([0.004, 0.004, 0.1, 0.004, 0.004])
    latency = measure_latency_ms(model, INPUTS, warmup=0, repeats=5)
    assert 4.0 <= latency < 50.0


def test_warm_up_is_not_measured() -> None:
    model = Sleeper([0.08, 0.002, 0.002])
    latency = measure_latency_ms(model, INPUTS, warmup=1, repeats=2)
    assert model.passes == 3
    assert 2.0 <= latency < 40.0


def test_models_take_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.name)
            return x

    interleaved_latency_ms([(Named(name), INPUTS) for name in "ab"], warmup=1, repeats=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"


def test_many_models_are_led_in_and_their_turns_counted() -> None:
    models = [Sleeper([0.05, 0.002]), Sleeper([0.05, 0.004])]
    turns: list[tuple[int, int]] = []
    found = interleaved_latency_ms(
        [(model, INPUTS) for model in models],
        warmup=0,
        repeats=3,
        lead_in=1,
        advance=lambda done, total: turns.append((done, total)),
    )
    assert [model.passes for model in models] == [6, 6]
    assert turns == [(1, 3), (2, 3), (3, 3)]
    assert 2.0 <= found[0] < 40.0
    assert 4.0 <= found[1] < 40.0


def test_the_slower_model_is_found_slower() -> None:
    runs = [(Sleeper([seconds]), INPUTS) for seconds in (0.002, 0.008)]
    fast, slow = interleaved_latency_ms(runs, warmup=1, repeats=3)
    assert fast < slow


def test_nothing_is_recorded_for_gradients() -> None:
    seen: list[bool] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return x

    measure_latency_ms(Recorder(), INPUTS, warmup=1, repeats=1)
    assert seen == [False, False]


def test_zero_repeats_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeats must be at least 1, but got 0"):
        measure_latency_ms(nn.Identity(), INPUTS, repeats=0)


def test_the_cpu_has_a_name_and_its_threads_are_counted() -> None:
    assert device_name(torch.device("cpu")).endswith(
        (" thread", f"{torch.get_num_threads()} threads")
    )
