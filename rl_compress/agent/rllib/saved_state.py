"""The state of a search, saved beside its records: an interrupted one goes on from there.

It is saved between two batches, when nobody plays. All generators of random numbers are seeded anew
there, whether it is saved or not, so that none has to be; and what was learned of the records is
learned from them again, in the order in which they became known.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_compress.agent.rllib.coordinator import Begun
from rl_compress.agent.rllib.overlapping import OverlappingPPO
from rl_compress.agent.rllib.replay import seed_replay
from rl_compress.runs.written import whole, written

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What a search needs beside its records; the default is that of one that begins."""

    begun: Begun = field(default_factory=Begun)
    number: int = 0
    """What generators are seeded with, beside the search's seed; 0 for its first part."""
    algorithm: dict[str, Any] | None = None
    """Of the networks and their optimizers; None where nothing was learned."""
    episodes: Any = None
    """What is to be learned from next, with asynchronous PPO."""
    replay: Any = None
    """The replay buffer, where there is one."""
    proposed: dict[int, list[set[bytes]]] = field(default_factory=dict)
    """What env runners proposed, by their index."""


def take(algorithm: Any, begun: Begun, number: int) -> SavedState:
    """Return the state of an algorithm whose env runners play nothing."""
    buffer = getattr(algorithm, "local_replay_buffer", None)
    proposed = _of_each(algorithm, _proposed)
    return SavedState(
        begun=begun,
        number=number,
        algorithm=algorithm.get_state(),
        episodes=getattr(algorithm, "episodes", None),
        replay=None if buffer is None else buffer.get_state(),
        proposed=dict(proposed),
    )


def give(algorithm: Any, state: SavedState) -> None:
    """Bring a new algorithm to a state."""
    if state.algorithm is None:
        return
    algorithm.set_state(state.algorithm)
    if state.replay is not None:
        algorithm.local_replay_buffer.set_state(state.replay)
    if isinstance(algorithm, OverlappingPPO):
        algorithm.resume(state.begun.batches, state.episodes)
    _of_each(algorithm, _propose, proposed=state.proposed)


def renew(algorithm: Any, seed: int, number: int) -> None:
    """Seed all generators anew.

    Args:
        algorithm: Its env runners play nothing.
        seed: The search's.
        number: Another one each time.
    """
    for draws in (random.seed, np.random.seed, torch.manual_seed):
        draws(_mixed(seed, number, 0))
    seed_replay(algorithm, _mixed(seed, number, 0))
    _of_each(algorithm, _renew, seed=seed, number=number)


def save(path: Path, state: SavedState) -> None:
    """Write a state, whole or not at all.

    Raises:
        StorageError: It cannot be written, as on a full disk.
    """
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            file.write_bytes(pickle.dumps(state))


def load(path: Path) -> SavedState | None:
    """Return what was saved; None if nothing was, or if it cannot be read."""
    try:
        state = pickle.loads(path.read_bytes())
    except Exception:  # of another release, or spoilt: unpickling raises anything
        return None
    return state if isinstance(state, SavedState) else None


def _of_each(algorithm: Any, act: Callable[..., Any], **given: Any) -> list[Any]:
    """Do something in each env runner that answers; one whose node is lost may not for long."""
    answers: list[Any] = algorithm.env_runner_group.foreach_env_runner(
        act, kwargs=given or None, local_env_runner=False, timeout_seconds=_PATIENCE_S
    )
    return answers


def _mixed(seed: int, number: int, worker: int) -> int:
    return int(np.random.SeedSequence([seed, number, worker]).generate_state(1)[0])


def _envs(runner: Any) -> list[Any]:
    return [env.unwrapped for env in runner.env.unwrapped.envs]


def _proposed(runner: Any) -> tuple[int, list[set[bytes]]]:
    return runner.worker_index, [env.proposed for env in _envs(runner)]


def _propose(runner: Any, proposed: dict[int, list[set[bytes]]]) -> None:
    for env, before in zip(_envs(runner), proposed.get(runner.worker_index, []), strict=False):
        env.proposed = before


def _renew(runner: Any, seed: int, number: int) -> None:
    for env in _envs(runner):
        env.renew(_mixed(seed, number, runner.worker_index))
