"""The target's own score under attack."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rl_compress.evaluation.adversarial import InputAttack, RobustnessConfig, loss_of
from rl_compress.evaluation.scores import KEY, Score
from rl_compress.registry import SCORES
from rl_compress.targets.batches import moved
from rl_compress.targets.target import Target, device_of


class RobustScore(Score):
    """The target's own score on inputs that are crafted against the variant it measures.

    The attack is white-box: FGSM or PGD by the gradient of the target's loss at that very variant.
    """

    Config = RobustnessConfig

    def __init__(
        self, target: Target, reference: nn.Module, config: Any = None, *, sampled: bool = False
    ) -> None:
        """Look at the range of the inputs, and make sure that the target has a loss.

        Raises:
            ConfigError: The target has no loss, or its inputs are not of floating point.
        """
        super().__init__(target, reference, config)
        self._attack = InputAttack(target, self.config, key=KEY)
        device = device_of(reference)
        batch = moved(next(iter(target.batches("search"))), device)
        with torch.no_grad():
            loss_of(target, f"{KEY}: {SCORES.name_of(type(self))}")(reference, batch)

    def __call__(self, variant: nn.Module) -> float:
        """Attack a variant on the search split, and measure it."""
        return self._attack.score(variant)
