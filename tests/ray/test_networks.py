"""The agent's networks by themselves: where they start, and the distribution of masks."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical

from rl_compress.agent.config import Network
from rl_compress.agent.mask_observation import CONTEXT, UNIT_FEATURES
from rl_compress.agent.rllib.distribution import MaskDistribution
from rl_compress.agent.rllib.module import module_spec

UNITS = 5
ODDS = [0.95, 0.05, 0.5, 0.3, 0.9]
RATIOS = gym.spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
MASKS = gym.spaces.MultiDiscrete([2] * UNITS)


def _size(actions: gym.Space) -> int:
    return CONTEXT + UNIT_FEATURES * UNITS if actions is MASKS else 12


def _build(network: Network, actions: gym.Space, *, inference_only: bool = False) -> Any:
    torch.manual_seed(0)
    spec = module_spec(network, 0.2, ODDS if actions is MASKS else None)
    spec.observation_space = gym.spaces.Box(-10.0, 10.0, (_size(actions),), dtype=np.float32)
    spec.action_space = actions
    spec.inference_only = inference_only
    if network != "article":
        from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog

        spec.catalog_class = PPOCatalog
    return spec.build()


def _observations(actions: gym.Space, count: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {Columns.OBS: torch.randn(count, _size(actions), generator=generator)}


def _probabilities(module: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
    return logits.unflatten(-1, (UNITS, 2)).softmax(-1)[..., 1]


@pytest.mark.parametrize("network", ["prior", "article"])
def test_first_masks_have_the_first_odds(network: Network) -> None:
    found = _probabilities(_build(network, MASKS), _observations(MASKS))
    expected = torch.tensor(ODDS).expand_as(found)
    torch.testing.assert_close(found, expected, atol=0.06, rtol=0)


def test_outputs_of_the_policy_network_are_logarithms_of_both_probabilities() -> None:
    batch = _observations(MASKS)
    module = _build("article", MASKS)
    logits = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
    p = torch.sigmoid(module.policy_network(batch[Columns.OBS]))
    pairs = logits.unflatten(-1, (UNITS, 2))
    torch.testing.assert_close(pairs, torch.stack([(1 - p).log(), p.log()], -1))


def test_one_network_judges_all_units() -> None:
    """Units with exchanged rows have exchanged logits, apart from their biases."""
    policy = _build("article", MASKS).policy_network
    observation = _observations(MASKS)[Columns.OBS]
    rows = observation[:, CONTEXT:].unflatten(-1, (UNITS, UNIT_FEATURES))
    turned = torch.cat([observation[:, :CONTEXT], rows.flip(1).flatten(1)], dim=1)
    bias = policy.bias
    torch.testing.assert_close(
        (policy(observation) - bias).flip(1), policy(turned) - bias, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("network", ["prior", "article"])
def test_first_ratios_are_around_the_prior_with_the_initial_spread(network: Network) -> None:
    module = _build(network, RATIOS)
    inputs = module.forward_exploration(_observations(RATIOS))[Columns.ACTION_DIST_INPUTS]
    mean, log_std = inputs.chunk(2, dim=-1)
    assert mean.abs().max() < 0.05
    torch.testing.assert_close(log_std, torch.full_like(log_std, math.log(0.2)), atol=0.05, rtol=0)


def test_mean_ratios_are_sigmoids_over_the_range_of_actions() -> None:
    module = _build("article", RATIOS)
    with torch.no_grad():
        module.policy_network[-1].bias.copy_(torch.tensor([-50.0, 0.0, math.log(3)]))
        module.policy_network[-1].weight.zero_()
    inputs = module.forward_exploration(_observations(RATIOS, 1))[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(inputs[0, :3], torch.tensor([-1.0, 0.0, 0.5]))


@pytest.mark.parametrize("actions", [RATIOS, MASKS], ids=["ratios", "masks"])
def test_policy_and_reward_network_share_nothing(actions: gym.Space) -> None:
    module = _build("article", actions)
    values = module.compute_values(_observations(actions))
    assert values.shape == (6,)
    values.sum().backward()
    touched = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert touched == {"reward_network"}


def test_env_runners_have_no_reward_network() -> None:
    module = _build("article", MASKS, inference_only=True)
    assert not hasattr(module, "reward_network")
    assert module.forward_exploration(_observations(MASKS))[Columns.ACTION_DIST_INPUTS].shape == (
        6,
        2 * UNITS,
    )
    learner = _build("article", MASKS)
    assert set(learner.get_state(inference_only=True)) == set(module.get_state())


def test_rllibs_own_network_is_untouched() -> None:
    module = _build("rllib", RATIOS)
    assert type(module).__name__ == "DefaultPPOTorchRLModule"
    sizes = [layer.out_features for layer in module.encoder.modules() if hasattr(layer, "weight")]
    assert sizes[:2] == [256, 256]


def test_mask_distribution_is_rllibs_own_in_one_piece() -> None:
    generator = torch.Generator().manual_seed(2)
    one, two = (torch.randn(4, 2 * UNITS, generator=generator) for _ in range(2))
    masks = torch.randint(0, 2, (4, UNITS), generator=generator)
    ours = [MaskDistribution.from_logits(logits) for logits in (one, two)]
    theirs = [
        TorchMultiCategorical.from_logits(logits, input_lens=[2] * UNITS) for logits in (one, two)
    ]
    torch.testing.assert_close(ours[0].logp(masks), theirs[0].logp(masks))
    torch.testing.assert_close(ours[0].entropy(), theirs[0].entropy())
    torch.testing.assert_close(ours[0].kl(ours[1]), theirs[0].kl(theirs[1]))
    modes = [d.to_deterministic().sample() for d in (ours[0], theirs[0])]
    torch.testing.assert_close(modes[0], modes[1])
    assert ours[0].sample().shape == (4, UNITS)
    assert MaskDistribution.required_input_dim(MASKS) == 2 * UNITS
