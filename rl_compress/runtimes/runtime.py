"""The interface of all runtimes: programs that compute with a delivered model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rl_compress.costs.timing import Timing, interleaved
from rl_compress.model.nested import Inputs


class Runtime(ABC):
    """A model, loaded by a program that runs it."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def load(cls, model: Any, *, threads: int | None = None) -> Runtime:
        """Load a model.

        Args:
            model: What the runtime runs: a file, or a module.
            threads: Threads that it computes with; None: as many as torch has.
        """

    @abstractmethod
    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """Return the tensors that the model returns, on the CPU.

        Args:
            inputs: Of one batch, as the module takes them.
        """

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the program."""

    def module(self) -> nn.Module:
        """Return the model as a module, for a target to score."""
        return _Module(self)


def compared(
    runtimes: Sequence[Runtime], inputs: Inputs, *, warmup: int, repeats: int
) -> list[Timing]:
    """Time models in turn on one batch, so that the noise of a shared machine hits all alike."""
    calls = [lambda one=one: one.outputs(inputs) for one in runtimes]
    return interleaved(calls, warmup=warmup, repeats=repeats)


class _Module(nn.Module):
    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with torch.no_grad():
            found = self.runtime.outputs(named or inputs)
        return found[0] if len(found) == 1 else tuple(found)
