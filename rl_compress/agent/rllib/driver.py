"""Drives an RLlib algorithm until the run's evaluations are used up."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from tensorboardX import SummaryWriter

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib.algorithms import make_config
from rl_compress.agent.rllib.cluster import connected, with_gpus
from rl_compress.agent.rllib.coordinator import Begun, answer, start_coordinator
from rl_compress.agent.rllib.overlapping import OverlappingPPO
from rl_compress.agent.rllib.quiet import without_native_warnings
from rl_compress.agent.rllib.replay import seed_replay
from rl_compress.agent.rllib.saved_state import SavedState, give, load, renew, save, take
from rl_compress.agent.rllib.starting import started
from rl_compress.agent.task import Task
from rl_compress.errors import SearchStalledError
from rl_compress.evaluation.ledger import DRIVER, Progress
from rl_compress.monitor import Monitor
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.convergence import Convergence
from rl_compress.searchers.mask_prior import first_odds
from rl_compress.space.mask_projection import decides_masks
from rl_compress.targets.threads import threads

_MAX_SILENCE_S = 300.0
"""How long runners may deliver nothing before they count as dead, which RLlib itself never says.

One that was killed is back in seconds, one whose node is lost when the cluster has replaced that.
"""

_SILENCE_POLL_S = 1.0

_MAX_STALE_ITERATIONS = 50
"""Iterations without a new variant after which the agent counts as converged."""

_ERA = 16
"""Batches after which generators are seeded anew, and the search's state may be saved."""

_SAVED_EVERY_S, _SHARE = 10.0, 20
"""Seconds between two times that the state is saved, and at least so many times what that took."""

STATE = "search.state"
"""Name of the file with the search's state."""

_POLL_S = 0.25

_DISMISSAL_S = 10.0
"""How long a coordinator, which may be dead, has to let env runners go."""

Advance = Callable[[Progress], None]


def run_rllib(
    task: Task,
    config: SearchConfig,
    *,
    store: EvaluationStore,
    checkpoints: Path,
    tensorboard: Path,
    monitor: Monitor,
    on_checkpoint: Callable[[], None] = lambda: None,
    address: str | None = None,
) -> tuple[Progress, str | None]:
    """Search with one of RLlib's algorithms on Ray.

    A resumed run goes on from the state that was saved last. What it evaluated since then it
    proposes once more, and the ledger answers at once; so it continues where it was, with the same
    agent. Where no state is saved beside the records, a new agent learns from all of them.

    Args:
        task: What the workers need.
        config: The job's search section.
        store: The run's evaluations.
        checkpoints: Folder for the search's state, on a disk of the driver.
        tensorboard: Folder for RLlib's logs, likewise.
        on_checkpoint: Called when a state is saved.
        address: The Ray cluster; None for a local one.
        monitor: Hears of progress several times a second.

    Returns:
        The run's figures, and why it ended early, or None.

    Raises:
        ConfigError: The algorithm cannot decide what the space asks for.
        SearchStalledError: No runner delivers samples, or the agent or an env failed.
        StorageError: The storage of the evaluations stayed away.
    """
    steps, odds = _episode(task, config)
    may_win = task.problem.may_win
    convergence = Convergence(config.convergence, lambda: filter(may_win, store.read()))
    saving = _Saving(checkpoints / STATE, config.seed, task.learned_from, on_checkpoint)
    state = saving.begin(store.read(), monitor.say)
    with connected(address, config.num_env_runners, config.num_cpus_per_env_runner):
        # Unique, for the name of an actor just killed is not free at once.
        name = f"coordinator-{uuid.uuid4().hex}"
        kept = ray.put(task)
        with without_native_warnings():
            coordinator = start_coordinator(
                name, store, config.evaluations, kept, config.num_env_runners, state.begun
            )
            made = make_config(with_gpus(config), name, steps, odds)
            try:
                algorithm = started(made.build_algo, coordinator)
            except BaseException:
                # Whoever is still to start finds nobody then, and ends.
                ray.kill(coordinator, no_restart=True)
                raise
        seed_replay(algorithm, config.seed)
        give(algorithm, state)
        if saving.number:
            renew(algorithm, config.seed, saving.number)
        writer = SummaryWriter(str(tensorboard), write_to_disk=True)
        try:
            # The agent's networks are small, and the runners need the cores.
            with threads(1), _watched(coordinator, monitor.searched):
                reason = _train(algorithm, coordinator, saving, writer, convergence)
            return answer(coordinator.progress.remote()), reason
        finally:
            writer.close()
            # An interrupted search left env runners in a batch, whose end stopping them waits for.
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(coordinator.dismiss.remote(), timeout=_DISMISSAL_S)
            algorithm.stop()
            ray.kill(coordinator, no_restart=True)


class _Saving:
    """Saves a search's state now and then."""

    def __init__(
        self, path: Path, seed: int, learned_from: int, on_save: Callable[[], None]
    ) -> None:
        self._path, self._seed, self._on_save = path, seed, on_save
        self._learned_from = learned_from
        self._due = 0.0
        self.number = 0
        """Of the era that begins; 0 for the first."""

    def begin(self, records: Sequence[EvaluationRecord], say: Callable[[str], None]) -> SavedState:
        """Return where the search goes on, or begins.

        Args:
            records: What is stored.
            say: Told where they are all there is.
        """
        state = load(self._path)
        ids = {record.evaluation_id for record in records}
        if state is not None and ids.issuperset(state.begun.evaluation_ids.tolist()):
            self.number = state.number
            return state
        if all(record.worker == DRIVER for record in records):
            state = SavedState()
        else:
            say(
                f"no state of the search is in {self._path}; a new agent goes on from the "
                f"{len(records)} records"
            )
            # It is not to propose once more what the old one did from the same seed.
            self.number = len(records)
            begun = Begun(evaluation_ids=np.array([record.evaluation_id for record in records]))
            state = SavedState(begun=begun, number=self.number)
        save(self._path, state)
        return state

    def between_batches(self, algorithm: Any, coordinator: Any, *, ends: bool) -> None:
        """Begin an era, if it is time; before, everything can be repeated from the seed."""
        overlaps = isinstance(algorithm, OverlappingPPO)
        number = algorithm.collected if overlaps else algorithm.iteration
        if number % _ERA and not ends:
            return
        begun = answer(coordinator.begun.remote())
        if not ends:
            if len(begun.evaluation_ids) <= self._learned_from:
                return
            renew(algorithm, self._seed, number)
        start = time.monotonic()
        if start >= self._due or ends:
            save(self._path, take(algorithm, begun, number))
            took = time.monotonic() - start
            self._due = start + max(_SAVED_EVERY_S, _SHARE * took)
            self._on_save()


def _episode(task: Task, config: SearchConfig) -> tuple[int, Sequence[float] | None]:
    """Return an episode's steps and, with masks, the odds of the first ones."""
    space, costs = task.problem.space, task.problem.costs
    if decides_masks(space):
        config.check_action("mask")
        steps = config.mask.steps
        return steps, first_odds(task.prior, task.problem.budget, space, costs, steps).tolist()
    return 1 if config.episode == "whole" else space.num_decisions, None


def _log(writer: SummaryWriter, scalars: Mapping[str, Any], progress: Progress) -> None:
    """Write scalars for TensorBoard, over the number of evaluations."""
    for name, value in scalars.items():
        if isinstance(value, int | float | np.number) and np.isfinite(value):
            writer.add_scalar(name, value, progress.done)


def _figures(progress: Progress) -> dict[str, Any]:
    """Return what there is to say of the search itself."""
    best = {} if progress.best is None else {"search/best_reward": progress.best.reward}
    return {"search/cache_hits": progress.cache_hits, **best}


def _means(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what RLlib says of a training step."""
    runners = result.get("env_runners", {})
    learners = result.get("learners", {}).get("default_policy", {})
    return {
        **{f"env_runners/{name}": value for name, value in runners.items()},
        **{f"learners/{name}": value for name, value in learners.items()},
    }


def _train(
    algorithm: Any,
    coordinator: Any,
    saving: _Saving,
    writer: SummaryWriter,
    convergence: Convergence,
) -> str | None:
    """Train until the evaluations are used up; return why it ended early, or None."""
    stale = 0
    silent_since: float | None = None
    progress, broken = answer(coordinator.publish.remote())

    def publish(batches: int = 0) -> bool:
        """Let workers learn of what was measured, and say whether it was all as usual."""
        nonlocal progress, broken
        known, (progress, broken) = progress, answer(coordinator.publish.remote(batches))
        if progress.done == known.done:
            return False
        _log(writer, _figures(progress), progress)
        return not (progress.exhausted or broken or convergence.reason(progress))

    if isinstance(algorithm, OverlappingPPO):
        algorithm.publish, algorithm.pause = publish, _ERA
    # A resumed run first replays what is stored, without new variants.
    patience = _MAX_STALE_ITERATIONS + progress.done
    while not progress.exhausted:
        if reason := convergence.reason(progress):
            return reason
        before = progress
        result = algorithm.train()
        publish()
        if broken is not None:
            raise broken
        _log(writer, _means(result), progress)
        if result.get("env_runners", {}).get("num_episodes"):
            silent_since = None
            stale = stale + 1 if progress.done == before.done else 0
        else:
            silent_since = _wait(coordinator, silent_since)
        saving.between_batches(algorithm, coordinator, ends=progress.exhausted)
        if stale > patience:
            return f"the agent proposed no new variant in {stale} updates"
        if progress.failures > max(20, progress.done):
            error = answer(coordinator.last_error.remote())
            raise SearchStalledError(f"search: most variants cannot be evaluated ({error})")
    return None


def _wait(coordinator: Any, silent_since: float | None) -> float:
    """Give runners that deliver nothing time to come back; training returns at once meanwhile.

    Args:
        coordinator: Knows the last error.
        silent_since: When training first returned without samples; None for now.

    Returns:
        When that was.

    Raises:
        SearchStalledError: It was too long ago.
    """
    now = time.monotonic()
    since = now if silent_since is None else silent_since
    if now - since > _MAX_SILENCE_S:
        error = answer(coordinator.last_error.remote())
        raise SearchStalledError(
            f"search: the env runners delivered nothing for {_MAX_SILENCE_S:.0f} s "
            f"({error or 'see the worker logs in the Ray session folder'}); "
            f"what was evaluated is stored, resume with --resume"
        )
    time.sleep(_SILENCE_POLL_S)
    return since


@contextlib.contextmanager
def _watched(coordinator: Any, advance: Advance) -> Iterator[None]:
    """Report progress from a thread, because one training iteration blocks for many evaluations."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_S):
            with contextlib.suppress(ray.exceptions.RayError):
                advance(ray.get(coordinator.progress.remote(), timeout=_DISMISSAL_S))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    advance(answer(coordinator.progress.remote()))
