"""A copy of a model whose weights can be exchanged, to see what damage does to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from rl_compress.robustness.bit_flips import StoredWeights


class Replica:
    """A model's copy; weights are exchanged by assignment, so no tensor is ever written into."""

    def __init__(self, model: nn.Module) -> None:
        """Copy a model, in evaluation mode and without gradients.

        Args:
            model: Left as it is.
        """
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        names: dict[int, str] = {}
        self._owners: dict[str, list[tuple[nn.Module, str]]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            module, _, attribute = name.rpartition(".")
            # A weight that several modules share is exchanged in all of them.
            first = names.setdefault(id(parameter), name)
            owner = (self.model.get_submodule(module), attribute)
            self._owners.setdefault(first, []).append(owner)

    def weights(self) -> dict[str, Tensor]:
        """Return all parameters with two axes or more by name, in the model's order.

        These are the weights of convolutions, linear layers and embeddings; biases and the scales
        of norms are not among them.
        """
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.ndim >= 2 and parameter.is_floating_point()
        }

    def output_axis(self, name: str) -> int:
        """Return the axis of a weight that counts output channels."""
        return int(bool(getattr(self._owners[name][0][0], "transposed", False)))

    def put(self, name: str, values: Tensor, *, requires_grad: bool = False) -> nn.Parameter:
        """Exchange one weight, wherever the model uses it.

        Args:
            name: As in :meth:`weights`.
            values: In the weight's shape; cast to its type.
            requires_grad: Whether to differentiate by it.
        """
        module, attribute = self._owners[name][0]
        old = getattr(module, attribute)
        new = nn.Parameter(values.detach().to(old), requires_grad=requires_grad)
        for module, attribute in self._owners[name]:
            setattr(module, attribute, new)
        return new

    def put_all(self, stored: Mapping[str, StoredWeights]) -> None:
        """Exchange weights for the values of stored ones."""
        for name, weights in stored.items():
            self.put(name, weights.values())
