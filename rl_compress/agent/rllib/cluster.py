"""Connecting to a Ray cluster, or starting a local one."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib.quiet import quiet
from rl_compress.errors import ConfigError
from rl_compress.logs import VARIABLE
from rl_compress.searchers.reachable import cannot_connect, cluster_address

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 512 << 20

_ALWAYS = 2
"""Env runners that any machine may have: as many as a search has by default."""


def most_runners(num_cpus_per_env_runner: float) -> float:
    """Return how many env runners this machine has cores for."""
    if not num_cpus_per_env_runner:
        return math.inf
    return max(_ALWAYS, int((os.cpu_count() or 1) / num_cpus_per_env_runner))


def fitting(config: SearchConfig, address: str | None) -> SearchConfig:
    """Lower the number of env runners to what a local cluster has cores for, and say so.

    A job that is made for a cluster runs on a laptop too.
    """
    most = most_runners(config.num_cpus_per_env_runner)
    if ray.is_initialized() or cluster_address(address) or config.num_env_runners <= most:
        return config
    logger.warning(
        "search.num_env_runners: %d is lowered to %d here, for this machine has %s CPUs and each "
        "asks for %g; --address joins a cluster that has more",
        config.num_env_runners,
        most,
        os.cpu_count(),
        config.num_cpus_per_env_runner,
    )
    return config.model_copy(update={"num_env_runners": int(most)})


def with_gpus(config: SearchConfig) -> SearchConfig:
    """Settle how many GPUs each env runner asks for, where the job leaves it open.

    A runner cannot have parts of two GPUs, so each GPU gets as many runners as any other, or one
    more. A trial of a sweep has what was reserved for it, which is none.
    """
    if config.num_gpus_per_env_runner is not None:
        return config
    free = 0
    # Where torch is built for the CPU, a GPU is of no use, and RLlib fails on it.
    if torch.backends.cuda.is_built() and ray.util.get_current_placement_group() is None:
        free = int(ray.available_resources().get("GPU", 0.0))
    # Ray counts in ten-thousandths.
    share = 1e4 // math.ceil(config.num_env_runners / free) / 1e4 if free else 0.0
    return config.model_copy(update={"num_gpus_per_env_runner": share})


@contextmanager
def connected(
    address: str | None, num_env_runners: int, num_cpus_per_env_runner: float
) -> Iterator[None]:
    """Be connected to Ray within the block.

    Args:
        address: Address of a cluster; None uses the connection that exists, the cluster named by
            ``RAY_ADDRESS``, or a local cluster that ends with the block.
        num_env_runners: Runners that a local cluster must have room for.
        num_cpus_per_env_runner: CPUs that each of them asks for.

    Raises:
        ConfigError: The cluster cannot be reached.
    """
    quiet()
    if ray.is_initialized():
        yield
        return
    joined = cluster_address(address)
    options: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"worker_process_setup_hook": "rl_compress.agent.rllib.quiet.quiet"},
    }
    handed_on = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    options["runtime_env"]["env_vars"] = handed_on
    try:
        if joined:
            ray.init(address=joined, **options)
        else:
            needed = 1 + int(num_env_runners * num_cpus_per_env_runner + 0.999)
            # The user's target may be importable by the path of this process alone.
            path = os.pathsep.join(folder for folder in sys.path if folder)
            handed_on["PYTHONPATH"] = path
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, needed),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **options,
            )
    except (OSError, ValueError, RuntimeError) as error:
        if joined:
            raise cannot_connect(address, error) from error
        raise ConfigError(
            f"search.algorithm: Ray, which runs it, cannot be started here "
            f"({' '.join(str(error).split())}); free memory and disk space, or join a cluster with "
            f"--address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
