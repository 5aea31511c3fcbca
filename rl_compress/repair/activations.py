"""Activations of the calibration split, for repairs that compare a variant with its original."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rl_compress.model.layers import channel_axis, is_weighted
from rl_compress.model.nested import joined
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target, device_of

T = TypeVar("T")


def repairable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a model by name.

    Layers that share their weight with another module are left out: a repair would part them.
    """
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: layer
        for name, layer in model.named_modules()
        if is_weighted(layer) and owners[id(layer.weight)] == 1
    }


def calibration_pass(
    target: Target, model: nn.Module, max_batches: int
) -> Callable[[nn.Module], Any]:
    """Return what runs a model on the first batches of the calibration split, taken as one.

    Args:
        target: Supplies the split.
        model: On the device that the batch is brought to.
        max_batches: Batches to use.
    """
    some = islice(target.batches("calibration"), max_batches)
    batch = moved(joined([target.without_labels(batch) for batch in some]), device_of(model))
    return functools.partial(target.forward, batch=batch)


def observe_outputs(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    observe: Callable[[nn.Module, Tensor], T],
) -> dict[str, T]:
    """Run a model and note something about the output of each convolution and linear layer.

    Args:
        model: In evaluation mode.
        run: Runs it on one batch.
        observe: Takes a layer and its output; must copy what it keeps, because a later layer may
            write into the output.

    Returns:
        What was noted, by layer name. Layers called more than once are left out: no single output
        is theirs.
    """
    layers = repairable_layers(model)
    names = {layer: name for name, layer in layers.items()}
    noted: dict[str, T] = {}
    calls: Counter[str] = Counter()

    def note(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[names[layer]] += 1
        noted[names[layer]] = observe(layer, output)

    with hooked([layer.register_forward_hook(note) for layer in layers.values()]):
        run(model)
    return {name: value for name, value in noted.items() if calls[name] == 1}


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end, without gradients in between."""
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def output_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """View a layer's outputs as rows of channels, shape ``(samples and positions, channels)``."""
    rows = outputs.movedim(channel_axis(layer), -1)
    return rows.reshape(-1, rows.shape[-1])
