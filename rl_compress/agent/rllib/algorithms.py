"""RLlib's algorithms, configured for few and expensive episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.tqc import TQCConfig

from rl_compress.agent.config import SACSettings, SearchConfig
from rl_compress.agent.rllib.connectors import DrawnActions, LatestObservations
from rl_compress.agent.rllib.module import asynchronous_spec, module_spec
from rl_compress.agent.rllib.overlapping import OverlappingPPO
from rl_compress.agent.rllib.worker_env import MaskWorkerEnv, SampleEnd, WorkerEnv

_SAMPLE_TIMEOUT_S = 7 * 24 * 3600.0
"""RLlib throws away samples that take longer than its default minute; evaluations may."""

_POLL_S = 0.05
"""How long one round of the asynchronous algorithm waits for samples; 0, RLlib's default, spins."""

_CLIP, _CLIP_MASKS = 0.3, 1.0

_CANDIDATES, _CANDIDATES_SCREENED = 10, 4
_EPOCHS, _EPOCHS_SCREENED = 20, 10

_RATE, _RATE_SCREENED = 1e-2, 1e-4
"""Adam's. Where proposals are screened, rewards say little of the proposals themselves, and there
is little to learn from them: the KL of a ResNet at 100 evaluations is .0153 at 1e-2 (10 seeds) and
at 1e-3 (20), .0148 at 1e-4 (20), standard errors .0003 to .0004; on a plain CNN all are alike."""

_GAMMA, _GAMMA_MASKS = 1.0, 0.1


def make_config(
    config: SearchConfig,
    coordinator: str,
    steps_per_episode: int,
    first_odds: Sequence[float] | None = None,
) -> AlgorithmConfig:
    """Return the configuration of an RLlib algorithm on the new API stack.

    Args:
        config: The job's search section.
        coordinator: Name of the run's coordinator actor.
        steps_per_episode: Decisions per candidate.
        first_odds: With masks, the first keep probability of each unit, shape ``(num_units,)``;
            None with ratios.

    Raises:
        ConfigError: The algorithm cannot decide masks.
    """
    masks = first_odds is not None
    config.check_action("mask" if masks else "ratio")
    env_config: dict[str, str | int] = {"coordinator": coordinator}
    if masks:
        env_config["steps"] = steps_per_episode
    match config.algorithm:
        case "appo":
            made = _appo(config, steps_per_episode)
        case "sac":
            made = _off_policy(SACConfig(), config, config.sac, steps_per_episode)
        case "tqc":
            made = _tqc(config, steps_per_episode)
        case _:
            made = _ppo(config, steps_per_episode, first_odds)
    if made.algo_class is not OverlappingPPO:
        made = made.callbacks(SampleEnd)
    return (
        made.environment(
            MaskWorkerEnv if masks else WorkerEnv, env_config=env_config, disable_env_checking=True
        )
        .env_runners(
            num_env_runners=config.num_env_runners,
            num_envs_per_env_runner=1,
            num_cpus_per_env_runner=config.num_cpus_per_env_runner,
            num_gpus_per_env_runner=config.num_gpus_per_env_runner or 0.0,
            create_local_env_runner=False,
            sample_timeout_s=_SAMPLE_TIMEOUT_S,
            env_to_module_connector=lambda _env, _spaces, device: LatestObservations(device),
            module_to_env_connector=lambda _env, _spaces: DrawnActions(),
            add_default_connectors_to_env_to_module_pipeline=False,
            add_default_connectors_to_module_to_env_pipeline=False,
        )
        .fault_tolerance(
            restart_failed_env_runners=True,
            delay_between_env_runner_restarts_s=0,
            restart_failed_sub_environments=True,
        )
        .debugging(log_level="ERROR", log_sys_usage=False, seed=config.seed)
    )


def _rate(config: SearchConfig, rate: float) -> float:
    """Return an optimizer's learning rate; at zero it moves no weight."""
    return rate if config.learning else 0.0


def _ppo(
    config: SearchConfig, steps_per_episode: int, first_odds: Sequence[float] | None
) -> AlgorithmConfig:
    settings = config.ppo
    masks = first_odds is not None
    network = config.network or ("article" if masks else "prior")
    # With masks, every step of an episode is a candidate evaluated.
    screens = config.screens and not masks
    candidates = settings.episodes_per_update or (_CANDIDATES_SCREENED if screens else _CANDIDATES)
    episodes = math.ceil(candidates / (steps_per_episode if masks else 1))
    # Every runner contributes the same number of whole episodes to an update.
    per_runner = math.ceil(episodes / config.num_env_runners)
    batch = per_runner * config.num_env_runners * steps_per_episode
    return (
        # Masks are learned as published: each update by the policy that drew them.
        PPOConfig(PPO if masks else OverlappingPPO)
        .training(
            train_batch_size_per_learner=batch,
            minibatch_size=batch,
            num_epochs=settings.num_epochs or (_EPOCHS_SCREENED if screens else _EPOCHS),
            lr=_rate(config, settings.learning_rate or (_RATE_SCREENED if screens else _RATE)),
            entropy_coeff=settings.entropy_coeff,
            gamma=config.gamma or (_GAMMA_MASKS if masks else _GAMMA),
            # What comes at an episode's end belongs to all its decisions alike.
            lambda_=1.0,
            grad_clip=1.0,
            clip_param=settings.clip_param or (_CLIP_MASKS if masks else _CLIP),
            # The clipped ratio alone bounds an update; the penalty would all but forbid moving
            # within the ten or so updates that a search has.
            use_kl_loss=False,
        )
        .env_runners(rollout_fragment_length=per_runner * steps_per_episode)
        .rl_module(rl_module_spec=module_spec(network, settings.initial_spread, first_odds))
    )


def _appo(config: SearchConfig, steps_per_episode: int) -> AlgorithmConfig:
    settings = config.appo
    batch = settings.episodes_per_update * steps_per_episode
    return (
        APPOConfig()
        .training(
            train_batch_size_per_learner=batch,
            num_epochs=settings.num_epochs,
            lr=_rate(config, settings.learning_rate),
            entropy_coeff=settings.entropy_coeff,
            gamma=config.gamma or _GAMMA,
            grad_clip=1.0,
            clip_param=settings.clip_param,
            # Every batch is used once, as often as `num_epochs` says. The circular buffer draws
            # batches by a generator that has no seed.
            use_circular_buffer=False,
            # The unit is 8 x 2 batches, the size of the buffer that is not used: the clipped
            # objective's target network follows every update.
            target_network_update_freq=1.0 / 16.0,
            timeout_s_sampler_manager=_POLL_S,
        )
        # A runner's share is one whole episode, so that nobody waits for the slowest.
        .env_runners(rollout_fragment_length=steps_per_episode, use_env_runner_state_server=False)
        # The learner is a thread of the driver; the networks are small.
        .learners(num_learners=0)
        .reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=batch)
        .rl_module(rl_module_spec=asynchronous_spec(settings.initial_spread))
    )


def _tqc(config: SearchConfig, steps_per_episode: int) -> AlgorithmConfig:
    settings = config.tqc
    made = TQCConfig().training(
        n_quantiles=settings.num_quantiles,
        top_quantiles_to_drop_per_net=settings.dropped_quantiles,
    )
    return _off_policy(made, config, settings, steps_per_episode)


def _off_policy(
    made: SACConfig, config: SearchConfig, settings: SACSettings, steps_per_episode: int
) -> AlgorithmConfig:
    """Configure SAC, or TQC, which is SAC with other critics."""
    runners = config.num_env_runners
    per_round = runners * steps_per_episode
    # RLlib counts one runner more than there are: the local one, which is left out here.
    intensity = settings.updates_per_decision * settings.batch_size * runners / (runners + 1)
    return (
        made.training(
            train_batch_size_per_learner=settings.batch_size,
            num_steps_sampled_before_learning_starts=settings.warmup_episodes * steps_per_episode,
            training_intensity=intensity,
            initial_alpha=settings.initial_alpha,
            actor_lr=_rate(config, settings.learning_rate),
            critic_lr=_rate(config, settings.learning_rate),
            alpha_lr=_rate(config, settings.learning_rate),
            gamma=config.gamma or _GAMMA,
            replay_buffer_config={
                "type": "EpisodeReplayBuffer",
                "capacity": max(config.evaluations * steps_per_episode, 10_000),
            },
        )
        .env_runners(rollout_fragment_length=steps_per_episode)
        .reporting(min_time_s_per_iteration=None, min_sample_timesteps_per_iteration=per_round)
    )
