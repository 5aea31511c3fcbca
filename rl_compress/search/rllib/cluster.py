"""Connecting to a Ray cluster, or starting a local one."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from rl_compress.errors import ConfigError
from rl_compress.logs import VARIABLE
from rl_compress.search.config import SearchConfig
from rl_compress.search.rllib.quiet import quiet

_OBJECT_STORE_BYTES = 512 << 20


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
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "runtime_env": {"worker_process_setup_hook": "rl_compress.search.rllib.quiet.quiet"},
    }
    handed_on = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    options["runtime_env"]["env_vars"] = handed_on
    try:
        if address:
            ray.init(address=address, **options)
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
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: cannot connect to the Ray cluster ({error}); "
            f"check that it runs, or leave the option out for a local one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
