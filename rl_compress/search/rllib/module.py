"""The agent's networks: a policy that starts at the prior, with a spread of its own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import nn

_HIDDEN = (64, 64)
_HEAD_GAIN = 0.01


class PriorCentredModule(DefaultPPOTorchRLModule):
    """PPO's networks whose first actions are normal around zero, which is the prior itself.

    RLlib's own start somewhere else in every seed, with a standard deviation of one: with few
    evaluations that is most of the search. A small gain on the last layer is common practice for
    policy heads (Andrychowicz et al., "What matters in on-policy RL?", ICLR 2021, section 3.2).
    """

    def setup(self) -> None:
        """Build RLlib's networks, then set the last layer of the policy."""
        super().setup()
        layers: list[Any] = [layer for layer in self.pi.modules() if isinstance(layer, nn.Linear)]
        head = layers[-1]
        with torch.no_grad():
            head.weight.mul_(_HEAD_GAIN)
            head.bias.zero_()
            # The second half of the outputs are the logarithms of standard deviations.
            head.bias[head.out_features // 2 :] = math.log(self.model_config["initial_spread"])


def module_spec(initial_spread: float) -> RLModuleSpec:
    """Return the specification of :class:`PriorCentredModule`.

    Args:
        initial_spread: Standard deviation of the first actions, in units of the action space.
    """
    config = {
        **dataclasses.asdict(DefaultModelConfig(fcnet_hiddens=list(_HIDDEN))),
        "initial_spread": initial_spread,
    }
    return RLModuleSpec(module_class=PriorCentredModule, model_config=config)
