"""What one trial takes of the cluster: its own process and its env runners, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import tune as ray_tune

from rl_compress.agent.rllib.cluster import most_runners
from rl_compress.errors import ConfigError
from rl_compress.job import Job
from rl_compress.searchers.reachable import cluster_address
from rl_compress.sweeps.trial import trial_job

_LEAST_CPUS = 0.001


def placement_group(job: Job, values: Mapping[str, Any]) -> ray_tune.PlacementGroupFactory:
    """Return a trial's placement group, which Tune reserves as a whole before the trial starts.

    Trials that wait hold nothing, so they cannot keep each other waiting.

    Args:
        job: The sweep's.
        values: The trial's values of the varied keys.
    """
    return ray_tune.PlacementGroupFactory(_bundles(job, trial_job(job, values)))


def check_room(job: Job, values: Mapping[str, Any]) -> None:
    """Make sure that the cluster can ever hold a trial.

    Raises:
        ConfigError: It cannot.
    """
    bundles, available = _bundles(job, trial_job(job, values)), ray.cluster_resources()
    for resource in ("CPU", "GPU"):
        needed = sum(bundle.get(resource, 0.0) for bundle in bundles)
        if needed > available.get(resource, 0.0):
            raise ConfigError(
                f"search.num_env_runners: a trial needs {needed:g} {resource}s for its driver and "
                f"runners, but the cluster has {available.get(resource, 0.0):g}; use fewer runners"
            )


def check_runners(job: Job, address: str | None) -> None:
    """Make sure that a local cluster does not get more env runners than the machine has cores for.

    Raises:
        ConfigError: It would.
    """
    most = most_runners(job.search.num_cpus_per_env_runner)
    if ray.is_initialized() or cluster_address(address) or not job.search.learns:
        return
    if job.search.num_env_runners > most:
        raise ConfigError(
            f"search.num_env_runners: this machine has cores for {most:g}, but got "
            f"{job.search.num_env_runners}; use fewer, or join a cluster with --address"
        )


def _bundles(job: Job, trial: Job) -> list[dict[str, float]]:
    """Return the driver's bundle, then one for each runner, as RLlib counts them."""
    driver = {"CPU": 1.0, "GPU": job.tune.num_gpus_per_driver}
    runner = {
        # Ray has no bundle of nothing.
        "CPU": max(trial.search.num_cpus_per_env_runner, _LEAST_CPUS),
        "GPU": trial.search.num_gpus_per_env_runner or 0.0,
    }
    runners = trial.search.num_env_runners if trial.search.learns else 0
    return [
        {resource: amount for resource, amount in bundle.items() if amount}
        for bundle in (driver, *[runner] * runners)
    ]
