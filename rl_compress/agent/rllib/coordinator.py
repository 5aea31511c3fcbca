"""The coordinator: one actor per run that keeps the ledger and hands workers their equipment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_compress.agent.rllib.lease import Holder, Lease
from rl_compress.agent.rllib.metrics import RunMetrics
from rl_compress.agent.rllib.turns import Turns
from rl_compress.agent.task import Task
from rl_compress.errors import RLCompressError, SearchStalledError, StorageError
from rl_compress.evaluation.ledger import Claim, EvaluationLedger, Progress
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.screening import Known
from rl_compress.space.search_space import Levels

NAMESPACE = "rl_compress"

_ANSWER_S = 600.0
"""How long a coordinator may be silent: storage that stays away is waited for."""

_MOST_STARTS = 3
"""Times that a worker is started, if it dies of it."""

_WAITING, _MOST_WAITING = "waiting", 16
"""Calls that wait have threads of their own; when there are more, they are answered later."""


def answer(reference: Any) -> Any:
    """Return what an actor that keeps books answers, which should take no time.

    Raises:
        SearchStalledError: It does not.
    """
    try:
        return ray.get(reference, timeout=_ANSWER_S)
    except ray.exceptions.GetTimeoutError:
        raise SearchStalledError(
            f"search: the actor that keeps the records has not answered for {_ANSWER_S:.0f} s; "
            f"what was evaluated is stored, resume with --resume"
        ) from None


class Coordinator:
    """Runs as a named actor; after a restart it knows again what the store holds."""

    def __init__(
        self, store: EvaluationStore, limit: int, kit: list[ray.ObjectRef], workers: int
    ) -> None:
        """Read the run's store and fetch the kit.

        Args:
            store: The run's.
            limit: Number of evaluations.
            kit: Reference to the :class:`Task`, boxed.
            workers: Number of those that measure.
        """
        self._broken: RLCompressError | None = None
        self._kit: Task = ray.get(kit[0])
        self._ledger = EvaluationLedger(store, limit, self._kit.problem.may_win)
        self._turns = Turns(workers)
        self._leases: dict[int, Lease] = {}
        self._starts: dict[int, tuple[int, Holder]] = {}
        self._answered: dict[str, tuple[Levels, float]] = {}
        for record in self._ledger.references():
            self._note_answer(record)
        self._published, self._batches = Known.nothing(), 0
        self._publication = threading.Condition()
        # After a restart nobody knows how many batches were published, and nobody is to wait.
        self._waits = not ray.get_runtime_context().was_current_actor_reconstructed
        self._metrics = RunMetrics(self._kit.problem.identity)
        self._metrics.show(self._ledger.progress())

    def kit(self) -> Task:
        """Return what a worker needs."""
        return self._kit

    def weights(self) -> list[ray.ObjectRef]:
        """Return a reference to the weights file's bytes, boxed so that it is not resolved here."""
        return [ray.put(self._kit.weights.read_bytes())]

    def begin(self, worker: int, holder: Holder) -> RLCompressError | None:
        """Hear that a worker builds what it needs; whoever dies of it every time ends the search.

        Args:
            worker: Its index.
            holder: Its actor.

        Returns:
            Why it is not to; None if it is.
        """
        before = self._starts[worker][0] if worker in self._starts else 0
        self._starts[worker] = before + 1, holder
        if before == _MOST_STARTS:
            self.give_up(
                SearchStalledError(
                    f"search: env runner {worker} died {before} times as it started; there may be "
                    f"too little memory for search.num_env_runners replicas of the target"
                )
            )
        return self._broken

    def equipped(self, worker: int) -> None:
        """Hear that it has all it needs."""
        self._starts.pop(worker, None)

    def starting(self) -> list[Holder]:
        """Return the actors that have begun, and do not have all they need."""
        return [holder for _, holder in self._starts.values()]

    def reason(self) -> RLCompressError | None:
        """Return why the search cannot go on; None while it can."""
        return self._broken

    def publish(self, batches: int = 0) -> tuple[Progress, RLCompressError | None]:
        """Let workers learn from what was answered so far, until this is called again.

        It is called when all have played a batch and none has begun to decide in the next, so what
        a worker knows does not depend on how quick the others are. What an interrupted run stored
        counts only once it is asked for again: a resumed search repeats itself up to where it was.

        Args:
            batches: How many were played, where workers wait for that.

        Returns:
            The run's figures, and why the search cannot go on; None while it can.
        """
        with self._publication:
            if self._answered:
                # By id, for the order in which they were answered depends on timing.
                answered = (of for _, of in sorted(self._answered.items()))
                levels, rewards = zip(*answered, strict=True)
                self._published = Known(np.stack(levels), np.array(rewards))
            self._batches = max(self._batches, batches)
            self._publication.notify_all()
        progress = self._ledger.progress()
        self._turns.begin(progress.limit - progress.done)
        return progress, self._broken

    def _note_answer(self, record: EvaluationRecord) -> None:
        """Keep what workers learn from a record, once they are let; before anybody waits for it."""
        if record.policy_id in self._answered:
            return  # it is asked for again, and somebody waits
        levels = self._kit.problem.space.levels_of(record.realised_policy())
        self._answered[record.policy_id] = levels, record.reward

    @ray.method(concurrency_group=_WAITING)
    def published(self, batches: int = 0) -> Known:
        """Return the records that :meth:`publish` let out, once it was told of so many batches."""
        with self._publication:
            self._publication.wait_for(lambda: not self._waits or self._batches >= batches)
            return self._published

    def claim(self, policy_id: str, worker: int, holder: Holder) -> Claim:
        """See :meth:`EvaluationLedger.claim`; nothing is granted when the search cannot go on.

        Args:
            policy_id: Of the variant.
            worker: Index of the worker that asks.
            holder: Its actor.
        """
        claim = Claim("exhausted")
        with self._storage():
            if self._broken is None:
                grants = self._turns.has(worker, policy_id)
                claim = self._ledger.claim(policy_id, worker, grants=grants)
        if claim.status == "granted":
            self._turns.use()
            self._leases[worker] = Lease(holder)
        elif claim.status == "pending":
            self._release_the_dead()
        if claim.record is not None:
            self._note_answer(claim.record)
            self._metrics.show(self._ledger.progress())
        return claim

    def _release_the_dead(self) -> None:
        """Void the claims of workers that died, which may not have a successor for long."""
        for worker, lease in list(self._leases.items()):
            if not lease.is_held():
                self._ledger.release(worker)
                del self._leases[worker]

    def complete(self, record: EvaluationRecord) -> None:
        """See :meth:`EvaluationLedger.complete`."""
        with self._storage():
            self._ledger.complete(record)
        self._note_answer(record)
        self._metrics.show(self._ledger.progress())

    def fail(self, policy_id: str, worker: int, error: str, policy: str = "") -> None:
        """See :meth:`EvaluationLedger.fail`."""
        with self._storage():
            self._ledger.fail(policy_id, worker, error, policy)
        self._metrics.show(self._ledger.progress())

    def give_up(self, error: RLCompressError) -> None:
        """Let the driver end the search; the first reason counts."""
        self._broken = self._broken or error

    def dismiss(self) -> None:
        """Let nobody measure anything more, or wait for anything: the search has ended."""
        self.give_up(SearchStalledError("search: it has ended"))
        with self._publication:
            self._waits = False
            self._publication.notify_all()

    def progress(self) -> Progress:
        """See :meth:`EvaluationLedger.progress`."""
        return self._ledger.progress()

    def last_error(self) -> str | None:
        """See :meth:`EvaluationLedger.last_error`."""
        return self._ledger.last_error()

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        """Note a full disk, or storage that stays away: the driver ends the search then."""
        try:
            yield
        except StorageError as error:
            self.give_up(error)


class RemoteLedger:
    """The ledger's interface over a coordinator actor.

    While a record is stored, its worker thinks about what to measure next.
    """

    def __init__(self, coordinator: Any) -> None:
        """Keep the actor handle."""
        self._coordinator = coordinator
        self._handed_in: list[ray.ObjectRef] = []

    def claim(
        self, policy_id: str, worker: int, meanwhile: Callable[[], None] | None = None
    ) -> Claim:
        """See :meth:`EvaluationLedger.claim`; `meanwhile` is done while the question travels."""
        # What was handed in is stored before this is answered: an actor takes calls in their order.
        asked = self._coordinator.claim.remote(policy_id, worker, Holder.this_actor())
        if meanwhile is not None:
            meanwhile()
        return answer(asked)

    def complete(self, record: EvaluationRecord) -> None:
        """See :meth:`EvaluationLedger.complete`; the record is on its way to the store."""
        self._handed_in.append(self._coordinator.complete.remote(record))

    def handed_in(self) -> list[ray.ObjectRef]:
        """Return what is there once the records are stored that were handed in since the last."""
        references, self._handed_in = self._handed_in, []
        return references

    def fail(self, policy_id: str, worker: int, error: str, policy: str = "") -> None:
        """See :meth:`EvaluationLedger.fail`; returns when the failure is stored."""
        answer(self._coordinator.fail.remote(policy_id, worker, error, policy))

    def give_up(self, error: RLCompressError) -> None:
        """See :meth:`Coordinator.give_up`."""
        answer(self._coordinator.give_up.remote(error))

    def progress(self) -> Progress:
        """See :meth:`EvaluationLedger.progress`."""
        return answer(self._coordinator.progress.remote())


def start_coordinator(
    name: str, store: EvaluationStore, limit: int, kit: ray.ObjectRef, workers: int
) -> Any:
    """Start the actor under a name that workers find it by; it restarts if it is killed.

    It stays on the driver's node, whose disk holds the run directory.

    Args:
        name: The actor's.
        store: The run's.
        limit: Number of evaluations.
        kit: Reference to the :class:`Task`, which the caller keeps as long as the actor is to
            restart: Ray does not keep an argument that is too large to travel with the call.
        workers: Number of those that measure.
    """
    here = ray.get_runtime_context().get_node_id()
    options = {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
    }
    actor = ray.remote(concurrency_groups={_WAITING: _MOST_WAITING})(Coordinator)
    return actor.options(**options).remote(store, limit, [kit], workers)
