"""The agent's networks, and how they start."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.algorithms.appo.default_appo_rl_module import DefaultAPPORLModule
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn
from torch.nn import functional

from rl_compress.agent.config import Network
from rl_compress.agent.mask_observation import CONTEXT, UNIT_FEATURES
from rl_compress.agent.rllib.distribution import MaskDistribution
from rl_compress.model.layers import is_weighted

_HIDDEN = (64, 64)
_UNIT_HIDDEN = (32, 32)
_HEAD_GAIN = 0.01
_UNIT_HEAD_GAIN = 0.1
_ROW_WEIGHT = 1.0


class PriorCentredModule(DefaultPPOTorchRLModule):
    """PPO's networks whose first actions are around the prior.

    Ratios are normal around zero, which is the prior itself; masks keep each unit with the first
    odds. RLlib's own networks start somewhere else in every seed, with a standard deviation of one:
    with few evaluations that is most of the search. A small gain on the last layer is common
    practice for policy heads (Andrychowicz et al., "What matters in on-policy RL?", ICLR 2021,
    section 3.2).
    """

    def setup(self) -> None:
        """Build RLlib's networks, then set the last layer of the policy."""
        super().setup()
        head: Any = [layer for layer in self.pi.modules() if is_weighted(layer)][-1]
        with torch.no_grad():
            head.weight.mul_(_HEAD_GAIN)
            if isinstance(self.action_space, gym.spaces.MultiDiscrete):
                self.action_dist_cls = MaskDistribution
                head.bias.copy_(_pairs(_logits(self.model_config["first_odds"])))
            else:
                head.bias.zero_()
                # The second half of the outputs are the logarithms of standard deviations.
                spread = math.log(self.model_config["initial_spread"])
                head.bias[head.out_features // 2 :] = spread


class AsynchronousModule(PriorCentredModule, DefaultAPPORLModule):
    """The same with the target networks that APPO needs."""


class ArticleModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """A policy network with sigmoid outputs, and a reward network that predicts the return.

    Two networks without a common layer. For masks the sigmoids are the probabilities with which
    units stay; for ratios they are the mean of the action, as a share of its range, with a spread
    that is learned.
    """

    def setup(self) -> None:
        """Build both networks."""
        size = self.observation_space.shape[0]
        self._decides_masks = isinstance(self.action_space, gym.spaces.MultiDiscrete)
        if self._decides_masks:
            self.action_dist_cls = MaskDistribution
            self.policy_network: nn.Module = UnitPolicy(self.model_config["first_odds"])
        else:
            actions = self.action_space.shape[0]
            self.policy_network = _mlp(size, _HIDDEN, actions, _HEAD_GAIN)
            spread = math.log(self.model_config["initial_spread"])
            self.log_spread = nn.Parameter(torch.full((actions,), spread))
            self.register_buffer("_low", torch.tensor(self.action_space.low), persistent=False)
            self.register_buffer("_high", torch.tensor(self.action_space.high), persistent=False)
        self.reward_network = _mlp(size, _HIDDEN, 1)

    def get_non_inference_attributes(self) -> list[str]:
        """Name what is needed for learning only."""
        return ["reward_network"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits = self.policy_network(batch[Columns.OBS])
        if self._decides_masks:
            return {Columns.ACTION_DIST_INPUTS: _pairs(logits)}
        mean = self._low + (self._high - self._low) * torch.sigmoid(logits)
        inputs = torch.cat([mean, self.log_spread.expand_as(mean)], dim=-1)
        return {Columns.ACTION_DIST_INPUTS: inputs}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return the predicted returns, shape ``(batch,)``."""
        return self.reward_network(batch[Columns.OBS]).squeeze(-1)


class UnitPolicy(nn.Module):
    """The logit of every unit's keep probability: one small network for all units, and a bias each.

    What it learns of one unit holds for all that look alike. A network with an output of its own
    for each unit has to learn every one of them by trial: on a linear regression with 8 informative
    inputs out of 64, the former found exactly those within 252 evaluations in each of 11 searches,
    the latter still kept at least 23 of the others after 300.
    """

    def __init__(self, first_odds: Sequence[float]) -> None:
        """Start at the given odds.

        Args:
            first_odds: First keep probability of each unit, in (0, 1), shape ``(num_units,)``.
        """
        super().__init__()
        self.shared = _mlp(UNIT_FEATURES + CONTEXT, _UNIT_HIDDEN, 1, _UNIT_HEAD_GAIN)
        first: Any = self.shared[0]
        with torch.no_grad():
            # The context is the same for all units of a variant, and far longer than a row: at the
            # usual scale it would leave them hard to tell apart.
            nn.init.uniform_(first.weight[:, :UNIT_FEATURES], -_ROW_WEIGHT, _ROW_WEIGHT)
        self.bias = nn.Parameter(_logits(first_odds))

    def forward(self, observation: Tensor) -> Tensor:
        """Return logits, shape ``(…, num_units)``, of observations of masks."""
        context, units = observation[..., :CONTEXT], observation[..., CONTEXT:]
        rows = units.unflatten(-1, (-1, UNIT_FEATURES))
        repeated = context.unsqueeze(-2).expand(*rows.shape[:-1], CONTEXT)
        return self.shared(torch.cat([rows, repeated], dim=-1)).squeeze(-1) + self.bias


def module_spec(
    network: Network, initial_spread: float, first_odds: Sequence[float] | None = None
) -> RLModuleSpec:
    """Return the specification of the agent's networks.

    Args:
        network: Which.
        initial_spread: Standard deviation of the first actions, in units of the action space.
        first_odds: With masks, the first keep probability of each unit.
    """
    if network == "rllib":
        return RLModuleSpec(
            module_class=DefaultPPOTorchRLModule,
            model_config=dataclasses.asdict(DefaultModelConfig()),
        )
    start = {
        "initial_spread": initial_spread,
        "first_odds": None if first_odds is None else [float(odds) for odds in first_odds],
    }
    if network == "article":
        return RLModuleSpec(module_class=ArticleModule, model_config=start)
    return RLModuleSpec(module_class=PriorCentredModule, model_config={**_layers(), **start})


def asynchronous_spec(initial_spread: float) -> RLModuleSpec:
    """Return the specification of APPO's networks, which start as PPO's do."""
    return RLModuleSpec(
        module_class=AsynchronousModule,
        model_config={**_layers(), "initial_spread": initial_spread},
    )


def _layers() -> dict[str, Any]:
    return dataclasses.asdict(DefaultModelConfig(fcnet_hiddens=list(_HIDDEN)))


def _mlp(inputs: int, hidden: Sequence[int], outputs: int, gain: float = 1.0) -> nn.Sequential:
    """Return a network with tanh layers, the weights of its last layer scaled, its bias zero."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.Tanh()]
        inputs = size
    head = nn.Linear(inputs, outputs)
    with torch.no_grad():
        head.weight.mul_(gain)
        head.bias.zero_()
    return nn.Sequential(*layers, head)


def _logits(probabilities: Sequence[float]) -> Tensor:
    return torch.logit(torch.tensor(probabilities, dtype=torch.float32))


def _pairs(logits: Tensor) -> Tensor:
    """Return ``(log(1 - p), log p)`` of every unit, shape ``(…, 2 * num_units)``."""
    pairs = torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=-1)
    return pairs.flatten(-2)
