"""What the proof is held on: a copy of the model in which every channel matters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rl_compress.model.axes import named_tensors
from rl_compress.model.graph import plain_operations
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, call, mapped, tensors_in
from rl_compress.variants.slimmable import copy_with

logger = logging.getLogger(__name__)

_NOISE = 1_000_003
"""Random numbers that a weight is made lively with, in turn; a prime number of them, so that no two
rows of a large weight get the same."""


@contextmanager
def quietly() -> Iterator[None]:
    """Run a model as it was traced, with the same random numbers each time."""
    with torch.random.fork_rng(devices=[]), plain_operations(), torch.no_grad():
        torch.manual_seed(0)
        yield


def lively_model(
    model: nn.Module, names: set[str], example_inputs: Inputs
) -> tuple[nn.Module, Inputs]:
    """Return a copy of a model in which every channel matters, and inputs that excite them all.

    Weights that are zero, tiny or alike, as those of untrained normalisations and layer scales or
    of dead filters, would hide that channels are mixed up. Models that do not take such weights or
    inputs are tried with their own.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = named_tensors(model)
    noise = mapped(lambda tensor: _noise_like(tensor, generator), example_inputs)
    copied, inputs = model, example_inputs
    for strength, inputs in ((1.0, noise), (1.0, example_inputs), (0.0, example_inputs)):
        lively = {
            name: _lively(tensor.detach(), strength, generator) if name in names else tensor
            for name, tensor in tensors.items()
        }
        # Trainable as the traced one: what torch calls can depend on it.
        copied = copy_with(model, lively, trainable=True)
        try:
            with kept_state(copied), quietly():
                if all(tensor.isfinite().all() for tensor in tensors_in(call(copied, inputs))):
                    break
        except Exception as error:
            logger.debug("weights or inputs made up for the proof do not run", exc_info=error)
    return copied, inputs


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of a tensor's shape; whole numbers, such as words, stay as they are."""
    if not tensor.is_floating_point():
        return tensor
    return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def _lively(tensor: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or not strength:
        return tensor
    if tensor.ndim > 1 and min(tensor.shape[:2]) > 1:
        usual = tensor[0].numel() ** -0.5
        spread = tensor.std().item()
        is_dull = spread < 0.1 * usual
        noise = torch.randn(min(_NOISE, tensor.numel()), generator=generator).to(tensor.dtype)
        noise *= usual if is_dull else 0.3 * spread
        lively = tensor.clone(memory_format=torch.contiguous_format)
        for part in lively.view(-1).split(_NOISE):
            part.mul_(not is_dull).add_(noise[: len(part)])
        return lively
    # Scales, shifts and statistics of channels; variances must stay positive.
    factors = torch.rand(tensor.shape, generator=generator).to(tensor.dtype) + 0.5
    noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    small = tensor.abs() < 1e-2
    return torch.where(small, 0.1 * noise.abs() + 0.05, tensor * factors)


def in_double(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision; whole numbers stay as they are."""
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
