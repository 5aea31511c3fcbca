"""Running a target's model without a trace: scored, or with other tensors than its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from rl_compress.model.kept_state import kept_state
from rl_compress.targets.batches import Batch
from rl_compress.targets.target import Target


def scored(target: Target, model: nn.Module, split: str) -> float:
    """Return a target's score of a model, which is left as it was."""
    with kept_state(model):
        return target.score(model, split)


def forward_with(
    target: Target, model: nn.Module, tensors: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    """Return a target's outputs of a model on a batch, with other tensors in it for this once.

    Args:
        target: Runs the model.
        model: Left as it is.
        tensors: By the full name of what they stand for.
        batch: On the model's device.
    """
    renamed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    return functional_call(_Forward(target, model), renamed, (batch,))


class _Forward(nn.Module):
    """A target's forward pass as a module, whose tensors torch can exchange."""

    def __init__(self, target: Target, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._target = target

    def forward(self, batch: Batch) -> Tensor:
        return self._target.forward(self.model, batch)
