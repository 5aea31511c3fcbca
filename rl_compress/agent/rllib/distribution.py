"""The distribution of binary masks, all units at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchDeterministic,
    TorchDistribution,
)
from torch import Tensor


class MaskDistribution(TorchDistribution):
    """Independent units, each with the logarithms of the odds to go and to stay.

    The same as RLlib's own distribution for ``MultiDiscrete``, which is a Python list of one
    distribution for each unit: with a thousand units, that is where all the time goes.
    """

    def _get_torch_distribution(self, logits: Tensor) -> torch.distributions.Distribution:
        """Read ``logits`` of shape ``(…, 2 * num_units)``, a pair for each unit."""
        pairs = logits.unflatten(-1, (-1, 2))
        self._pairs = pairs
        return torch.distributions.Independent(torch.distributions.Categorical(logits=pairs), 1)

    def to_deterministic(self) -> TorchDeterministic:
        """Return the most likely mask."""
        return TorchDeterministic(loc=self._pairs.argmax(dim=-1))

    @staticmethod
    def required_input_dim(space: gym.Space, **kwargs: Any) -> int:
        """Return two for each unit."""
        return 2 * space.shape[0]
