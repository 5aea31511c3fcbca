"""Measured latency: warm up, repeat, take the median, and name the device."""

from __future__ import annotations

import contextlib
import time
from statistics import median
from typing import TYPE_CHECKING

import torch

from rl_compress.errors import ConfigError
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import call, tensors_in
from rl_compress.runs.environment import describe_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from rl_compress.model.nested import Inputs

WARMUP = 5
"""Forward passes before the first that is timed."""
REPEATS = 30
"""Forward passes that are timed."""


def measure_latency_ms(
    model: nn.Module, inputs: Inputs, *, warmup: int = WARMUP, repeats: int = REPEATS
) -> float:
    """Measure one forward pass.

    Args:
        model: Model in evaluation mode, on the device of the inputs.
        inputs: Arguments of one batch, batch first.
        warmup: Passes before the first that is timed.
        repeats: Passes that are timed, at least 1.

    Returns:
        The median, in milliseconds for the whole batch.

    Raises:
        ConfigError: There is nothing to repeat.
    """
    return interleaved_latency_ms([(model, inputs)], warmup=warmup, repeats=repeats)[0]


def interleaved_latency_ms(
    runs: Sequence[tuple[nn.Module, Inputs]],
    *,
    warmup: int = WARMUP,
    repeats: int = REPEATS,
    lead_in: int = 0,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[float]:
    """Measure any number of models in turn, each with inputs of its own.

    Args:
        runs: Modules in evaluation mode, and a batch for each.
        warmup: Passes of each before the first that is timed.
        repeats: Passes of each that are timed, at least 1.
        lead_in: Passes right before each one that is timed. Kernels of many models are more than
            torch keeps; it must not be timed making them again.
        advance: Hears of the turns done, and of their total.

    Returns:
        The median of each, in milliseconds for its batch.

    Raises:
        ConfigError: There is nothing to repeat.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, but got {repeats}")
    times_ms: list[list[float]] = [[] for _ in runs]
    with contextlib.ExitStack() as stack:
        for model, _ in runs:
            stack.enter_context(kept_state(model))
        stack.enter_context(torch.inference_mode())
        for _ in range(warmup):
            for model, inputs in runs:
                call(model, inputs)
        for repeat in range(repeats):
            # The order alternates, so that no model always finds another's data in cache.
            turn = list(zip(runs, times_ms, strict=True))
            for (model, inputs), measured in turn if repeat % 2 == 0 else reversed(turn):
                for _ in range(lead_in):
                    call(model, inputs)
                measured.append(_time_once(model, inputs))
            advance(repeat + 1, repeats)
    return [median(measured) for measured in times_ms]


def device_name(device: torch.device) -> str:
    """Return the name of the hardware, with the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{describe_environment()['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def _time_once(model: nn.Module, inputs: Inputs) -> float:
    _wait_for(inputs)
    start = time.perf_counter()
    call(model, inputs)
    _wait_for(inputs)
    return (time.perf_counter() - start) * 1e3


def _wait_for(inputs: Inputs) -> None:
    """Let a GPU finish, since its kernels run behind Python's back."""
    for tensor in tensors_in(inputs):
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
