"""The precision that variants are run in: less of it, and another order of channels, where it pays.

Weights stay as they are, so that repairs, quantizers, latencies and the delivered model never see
anything else than float32 in its own order. Only the passes themselves are computed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, call, mapped
from rl_compress.targets.user_code import summary

Precision = Literal["auto", "float32", "bfloat16"]

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls the instructions that compute in it; without one it is slower than float32."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How forward passes are computed; by default as the network says."""

    bfloat16: bool = False
    """Convolutions and matrix products take bfloat16; torch sums them in float32."""
    channels_last: bool = False
    """Images are laid out pixel by pixel, which sums are taken in another order for."""

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """Compute a network's passes that way within the block, and give float32 out.

        Passes with gradients stay as they are: torch corrupts memory in the backward pass of some
        narrow convolutions of channels-last inputs, and attacks follow exact slopes.
        """
        if self == Passes():
            yield
            return
        plain, own = network.forward, vars(network).get("forward")

        def forward(*inputs: Any, **named: Any) -> Any:
            if torch.is_grad_enabled():
                return plain(*inputs, **named)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                found = plain(*mapped(self._laid_out, inputs), **mapped(self._laid_out, named))
            return mapped(_widened, found)

        network.forward = forward
        try:
            yield
        finally:
            del network.forward
            if own is not None:
                network.forward = own

    def _laid_out(self, value: Tensor) -> Tensor:
        if self.channels_last and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value


def passes_for(precision: Precision, network: nn.Module, inputs: Inputs) -> Passes:
    """Return how a network's passes are computed in a precision: channels-last where it can be.

    Args:
        precision: ``auto``, where it was not settled to be another, means float32 channels-last.
        network: It is run, as some take no other layout (those that call ``view``).
        inputs: Of one pass, on the network's device.

    Raises:
        ConfigError: The network cannot be run in bfloat16.
    """
    if precision == "float32":
        return Passes()
    bfloat16, failure = precision == "bfloat16", ""
    for channels_last in (True, False):
        passes = Passes(bfloat16, channels_last)
        try:
            with kept_state(network), passes.of(network), torch.no_grad():
                call(network, inputs)
        except Exception as error:
            failure = summary(error)
        else:
            return passes
    raise ConfigError(
        f"evaluation.precision: the model cannot be run in {precision} ({failure}); choose float32"
    )


def settled(
    precision: Precision, network: nn.Module, inputs: Inputs, *, quantized: bool
) -> Precision:
    """Return bfloat16 instead of ``auto`` where it pays and is sound, or what was asked for.

    It pays where the processor computes in it. It is not sound with quantized weights or
    activations, whose steps are no wider than its own, nor where the network fails in it.

    Args:
        precision: What the job asks for.
        network: The uncompressed one.
        inputs: Of one pass, on the network's device.
        quantized: Whether variants are quantized.
    """
    if precision != "auto" or quantized or not computes_in_bfloat16():
        return precision
    try:
        passes_for("bfloat16", network, inputs)
    except ConfigError:
        return precision
    return "bfloat16"


def computes_in_bfloat16() -> bool:
    """Say whether the GPU, or else the processor, has instructions for bfloat16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in _BFLOAT16)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value
