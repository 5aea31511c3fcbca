"""The pieces between env and networks do what RLlib's default ones do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rl_compress.agent.rllib.connectors import DrawnActions, LatestObservations
from rl_compress.agent.rllib.module import module_spec

OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (5,), dtype=np.float32)
RATIOS = gym.spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
MASKS = gym.spaces.MultiDiscrete([2, 2, 2])


class _Env(gym.Env):
    observation_space = OBSERVATIONS

    def __init__(self, action_space: gym.Space) -> None:
        self.action_space = action_space


def _episodes() -> list[Any]:
    episodes = []
    for seed in range(2):
        OBSERVATIONS.seed(seed)
        episode = SingleAgentEpisode(observation_space=OBSERVATIONS, action_space=RATIOS)
        episode.add_env_reset(OBSERVATIONS.sample(), {})
        episode.add_env_step(OBSERVATIONS.sample(), RATIOS.sample(), 0.5, {})
        episodes.append(episode)
    return episodes


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("actions", [RATIOS, MASKS], ids=["ratios", "masks"])
def test_actions_and_outputs_are_those_of_the_default_pieces(
    actions: gym.Space, explore: bool
) -> None:
    odds = [0.3, 0.6, 0.9] if actions is MASKS else None
    spec = module_spec("prior", 0.5, odds)
    spec.observation_space, spec.action_space = OBSERVATIONS, actions
    torch.manual_seed(0)
    module = spec.build()
    env, config = _Env(actions), PPOConfig()
    ours = LatestObservations(), DrawnActions(OBSERVATIONS, actions)
    default = (
        config.build_env_to_module_connector(env),
        config.build_module_to_env_connector(env),
    )

    def run(pieces: tuple[Any, Any]) -> tuple[Any, dict[str, Any]]:
        torch.manual_seed(1)
        episodes = _episodes()
        shared: dict[str, Any] = {}
        told = {"rl_module": module, "episodes": episodes, "explore": explore}
        observed = pieces[0](batch={}, shared_data=shared, **told)
        outputs = module.forward_exploration(observed)
        drawn = pieces[1](batch=outputs, shared_data=shared, **told)
        return observed[Columns.OBS], drawn

    (seen, expected), (saw, found) = run(default), run(ours)
    assert torch.equal(saw, seen)
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        assert np.array_equal(np.stack(found[column]), np.stack(values)), column
