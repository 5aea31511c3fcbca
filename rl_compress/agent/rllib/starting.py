"""The start of env runners: RLlib would wait without end for one that dies of it each time."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray import cloudpickle

from rl_compress.agent.rllib.coordinator import answer
from rl_compress.errors import RLCompressError, SearchStalledError

logger = logging.getLogger(__name__)

_PATIENCE_S = 1800.0
"""How long env runners may take, each of which makes the target."""

_QUIET_S, _POLL_S, _END_S = 30.0, 1.0, 10.0


def started(build: Callable[[], Any], coordinator: Any) -> Any:
    """Return what ``build`` returns: an algorithm, whose env runners start meanwhile.

    Args:
        build: Called in a thread, which nothing else can interrupt.
        coordinator: Hears from env runners how they fare.

    Raises:
        RLCompressError: Env runners fail, die again and again, or take too long.
    """
    building: Future[Any] = Future()

    def run() -> None:
        try:
            building.set_result(build())
        except BaseException as error:
            building.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    start, told = time.monotonic(), False
    reason: RLCompressError | None
    while not wait([building], timeout=_POLL_S).done:
        waited = time.monotonic() - start
        reason = answer(coordinator.reason.remote())
        if reason is None and waited > _PATIENCE_S:
            reason = SearchStalledError(
                f"search: env runners have not started within {_PATIENCE_S:.0f} s; see the "
                f"worker logs in the Ray session folder"
            )
        if reason is not None:
            _end(coordinator, building, reason)
            raise reason
        if not told and waited > _QUIET_S:
            told = True
            logger.warning("waiting for env runners to start, each of which makes the target")
    if (error := building.exception()) is None:
        return building.result()
    if (reason := answer(coordinator.reason.remote())) is not None:
        raise reason from error
    if isinstance(error, ray.exceptions.RayError | IndexError):
        raise SearchStalledError(
            "search: the env runners died as they started; see the worker logs in the Ray session "
            "folder"
        ) from error
    raise error


def _end(coordinator: Any, building: Future[Any], reason: RLCompressError) -> None:
    """Kill the env runners that have not started, which ends the wait for them."""
    answer(coordinator.give_up.remote(reason))
    for holder in answer(coordinator.starting.remote()):
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(cloudpickle.loads(holder.handle), no_restart=True)
    wait([building], timeout=_END_S)
