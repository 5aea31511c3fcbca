"""Torch itself, on whatever device the model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_compress.model.nested import Inputs, call, tensors_in
from rl_compress.runtimes.runtime import Runtime
from rl_compress.targets.threads import threads as computing_with


class Torch(Runtime):
    """Runs a module."""

    name = "torch"

    def __init__(self, model: nn.Module, threads: int | None) -> None:
        """Keep a module in evaluation mode."""
        self._model = model
        self._threads = threads

    @classmethod
    def load(cls, model: nn.Module, *, threads: int | None = None) -> Torch:
        """See :meth:`Runtime.load`."""
        return cls(model, threads)

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """See :meth:`Runtime.outputs`; waits for a GPU, since the outputs are brought over."""
        with computing_with(self._threads), torch.inference_mode():
            return [tensor.cpu() for tensor in tensors_in(call(self._model, inputs))]

    @property
    def version(self) -> str:
        """See :attr:`Runtime.version`."""
        return str(torch.__version__)
