"""Room for env runners: whether a cluster has it, before anything is measured for them."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import ConfigError

logger = logging.getLogger(__name__)

_PATIENCE_S = 300.0
"""How long room may take to come: nodes are started for it, or other work ends."""

_PATIENCE_OF_FIXED_S = 10.0
"""Likewise where no room can come, because nobody starts nodes."""

_QUIET_S = 3.0
"""How long nothing is said of it."""


@contextmanager
def reserved(config: SearchConfig) -> Iterator[PlacementGroup | None]:
    """Hold what a search's env runners ask for within the block.

    Args:
        config: With the number of GPUs settled.

    Yields:
        The reservation, a bundle for each runner; None where they ask for nothing.

    Raises:
        ConfigError: There is no such room, and none came in time.
    """
    asked = {"CPU": config.num_cpus_per_env_runner, "GPU": config.num_gpus_per_env_runner or 0.0}
    bundle = {resource: amount for resource, amount in asked.items() if amount}
    if not bundle:
        yield None
        return
    # A cluster that grows starts nodes for what is reserved.
    group = placement_group([bundle] * config.num_env_runners)
    try:
        _wait(group, bundle, config.num_env_runners)
        yield group
    finally:
        remove_placement_group(group)


def _wait(group: PlacementGroup, bundle: Mapping[str, float], runners: int) -> None:
    start, told = time.monotonic(), False
    while not group.wait(1):
        waited = time.monotonic() - start
        room = _room(bundle)
        fixed = room < runners and not _may_grow()
        if waited > (_PATIENCE_OF_FIXED_S if fixed else _PATIENCE_S):
            raise ConfigError(
                f"search.num_env_runners: {_needs(bundle, runners)}, but {_has(bundle, room)}; use "
                f"fewer runners, lower search.num_cpus_per_env_runner, or make the cluster larger"
            )
        if not told and waited > _QUIET_S:
            told = True
            logger.warning(
                "waiting up to %.0f s for room: %s, but %s",
                _PATIENCE_OF_FIXED_S if fixed else _PATIENCE_S,
                _needs(bundle, runners),
                _has(bundle, room),
            )


def _needs(bundle: Mapping[str, float], runners: int) -> str:
    each = " and ".join(f"{amount:g} {resource}" for resource, amount in bundle.items())
    return f"{runners} env runners need {each} each"


def _has(bundle: Mapping[str, float], room: int) -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    there = " and ".join(
        f"{total.get(resource, 0.0):g} {resource} ({free.get(resource, 0.0):g} free)"
        for resource in bundle
    )
    return f"the Ray cluster has {there}, room for {room}"


def _room(bundle: Mapping[str, float]) -> int:
    """Return how many bundles fit on the nodes, if nothing else ran there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(
            # A hair more, for sums of fractions.
            math.floor(node.get(resource, 0.0) / amount + 1e-6)
            for resource, amount in bundle.items()
        )
        for node in nodes
    )


def _may_grow() -> bool:
    """Say whether the cluster starts nodes by itself, as far as can be told.

    Its autoscaler reports nodes under the kinds that it was told of. Where it only watches, every
    node is of a kind of its own.
    """
    try:
        status: Any = json.loads(_internal_kv_get(b"__autoscaling_status"))
        kinds = status["autoscaler_report"]["active_nodes"]
        return not kinds or not all(kind.startswith("node_") for kind in kinds)
    except (TypeError, KeyError, ValueError, AttributeError):
        return True
