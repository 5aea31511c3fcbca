"""Measured latency: warm up, repeat, take the median, and name the device."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import torch

from rl_compress.costs.timing import interleaved
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
        lead_in: Passes right before each one that is timed, see :func:`interleaved`.
        advance: Hears of the turns done, and of their total.

    Returns:
        The median of each, in milliseconds for its batch.

    Raises:
        ConfigError: There is nothing to repeat.
    """
    with contextlib.ExitStack() as stack:
        for model, _ in runs:
            stack.enter_context(kept_state(model))
        stack.enter_context(torch.inference_mode())
        calls = [functools.partial(_pass, model, inputs) for model, inputs in runs]
        found = interleaved(calls, warmup=warmup, repeats=repeats, lead_in=lead_in, advance=advance)
    return [timing.median for timing in found]


def device_name(device: torch.device) -> str:
    """Return the name of the hardware, with the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{describe_environment()['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def _pass(model: nn.Module, inputs: Inputs) -> None:
    """Run a model, and let a GPU finish, since its kernels run behind Python's back."""
    call(model, inputs)
    for tensor in tensors_in(inputs):
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
