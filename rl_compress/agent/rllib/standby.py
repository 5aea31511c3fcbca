"""Before anything is measured for env runners: whether they have room, and can be started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import cloudpickle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib.cluster import connected, fitting, with_gpus
from rl_compress.agent.rllib.room import reserved
from rl_compress.errors import TargetError
from rl_compress.targets.factory import HELD, TargetConfig, lend_factory, make_target, own_factory

logger = logging.getLogger(__name__)

_PATIENCE_S = 1800.0
"""How long a worker may take to make the target, which may fetch its data first."""

_QUIET_S = 30.0
"""How long nothing is said of it."""


@contextmanager
def standby(
    config: SearchConfig, target: TargetConfig, address: str | None
) -> Iterator[SearchConfig]:
    """Be connected to Ray within the block, with room for a search's env runners.

    Args:
        config: The job's search section.
        target: What each runner has a replica of.
        address: See :func:`connected`.

    Yields:
        The same, with as many runners as a local machine has cores for, and their GPUs settled.

    Raises:
        ConfigError: The cluster cannot be reached, has no room, or cannot make the target.
    """
    config = fitting(config, address)
    with connected(address, config.num_env_runners, config.num_cpus_per_env_runner):
        config = with_gpus(config)
        with reserved(config) as group:
            try_worker(target, config, group)
        yield config


def try_worker(
    target: TargetConfig, config: SearchConfig, group: PlacementGroup | None = None
) -> None:
    """Make sure that a worker of the cluster can make the target, as this process can.

    Args:
        target: What it is to make.
        config: How many CPUs and GPUs it has for that.
        group: Where it runs; None for anywhere.

    Raises:
        TargetError: It cannot; the message has its own error.
    """
    factory = portable_factory(target)
    options: dict[str, Any] = {
        "num_cpus": config.num_cpus_per_env_runner,
        "num_gpus": config.num_gpus_per_env_runner or 0.0,
        "max_retries": 0,
    }
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
    trial = ray.remote(_make).options(**options).remote(target, factory)
    start, told = time.monotonic(), False
    while not ray.wait([trial], timeout=1.0)[0]:
        waited = time.monotonic() - start
        if waited > _PATIENCE_S:
            ray.cancel(trial, force=True)
            raise TargetError(
                f"target.factory: {target.factory} has not ended within {_PATIENCE_S:.0f} s in a "
                f"Ray worker; make it quicker, and let it wait for nothing"
            )
        if not told and waited > _QUIET_S:
            told = True
            logger.warning("waiting for a Ray worker that makes the target %s", target.factory)
    try:
        ray.get(trial)
    except ray.exceptions.RayTaskError as error:
        raise TargetError(f"in a Ray worker: {' '.join(str(error.cause).split())}") from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise TargetError(
            f"target.factory: the Ray worker that made {target.factory} died ({reason})"
        ) from None


def portable_factory(target: TargetConfig) -> Callable[..., Any] | None:
    """Return a factory that workers are to be sent, for they cannot import it; None if they can.

    Raises:
        TargetError: It cannot be sent.
    """
    factory = own_factory(target.factory)
    try:
        cloudpickle.dumps(factory)
    except Exception as error:
        name = target.factory.partition(":")[2]
        what, remedy = f"target.factory: {target.factory}", f"name it as module:{name}"
        if target.factory == HELD:
            what, remedy = "model: it", "give a job whose target.factory names what makes it"
        raise TargetError(
            f"{what} cannot be sent to Ray workers ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); put it into a module, and {remedy}"
        ) from None
    return factory


def _make(target: TargetConfig, factory: Callable[..., Any] | None) -> None:
    """Make the target, and read a sample of the splits that env runners read."""
    lend_factory(target.factory, factory)
    made = make_target(target)
    for split in ("calibration", "search"):
        try:
            made.split(split)[0]
        except Exception as error:
            raise TargetError(
                f"target: split {split!r} cannot be read ({type(error).__name__}: {error})"
            ) from error
