"""The coordinator: one actor per run that keeps the ledger and hands workers their equipment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_compress.agent.rllib.lease import Holder, Lease
from rl_compress.agent.rllib.metrics import RunMetrics
from rl_compress.agent.rllib.publication import News, Publication
from rl_compress.agent.rllib.turns import Turns
from rl_compress.agent.task import Task
from rl_compress.errors import RLCompressError, SearchStalledError, StorageError
from rl_compress.evaluation.ledger import DRIVER, Claim, EvaluationLedger, Progress
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore

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


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a search begins, or goes on."""

    batches: int = 0
    """Batches that were played."""
    evaluation_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the records that were let out, in that order."""
    vain: int = 0
    """See :class:`Turns`."""


class Coordinator:
    """Runs as a named actor; after a restart it knows again what the store holds."""

    def __init__(
        self,
        store: EvaluationStore,
        limit: int,
        task: list[ray.ObjectRef],
        workers: int,
        begun: Begun,
    ) -> None:
        """Read the run's store and fetch the task.

        Args:
            store: The run's.
            limit: Number of evaluations.
            task: Reference to the :class:`Task`, boxed.
            workers: Number of those that measure.
            begun: Where an interrupted search goes on.
        """
        self._broken: RLCompressError | None = None
        self._task: Task = ray.get(task[0])
        self._ledger = EvaluationLedger(store, limit, self._task.problem.may_win)
        self._turns = Turns(workers, begun.vain)
        self._leases: dict[int, Lease] = {}
        self._starts: dict[int, tuple[int, Holder]] = {}
        self._publication, self._batches = Publication(self._task), begun.batches
        self._published = threading.Condition()
        # After a restart nobody knows what was published, and nobody is to wait.
        self._waits = not ray.get_runtime_context().was_current_actor_reconstructed
        records = {record.evaluation_id: record for record in self._ledger.records()}
        told = begun.evaluation_ids.tolist() if self._waits else records
        self._publication.restore([records[number] for number in told])
        for record in records.values():
            if record.worker == DRIVER:
                self._publication.note(record)
        self._metrics = RunMetrics(self._task.problem.identity)
        self._metrics.show(self._ledger.progress())

    def task(self) -> Task:
        """Return what a worker needs."""
        return self._task

    def weights(self) -> list[ray.ObjectRef]:
        """Return a reference to the weights file's bytes, boxed so that it is not resolved here."""
        return [ray.put(self._task.weights.read_bytes())]

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
        since its state was saved counts only once it is asked for again: a resumed search repeats
        itself up to where it was.

        Args:
            batches: How many were played, where workers wait for that.

        Returns:
            The run's figures, and why the search cannot go on; None while it can.
        """
        with self._published:
            self._publication.let_out()
            self._batches = max(self._batches, batches)
            self._published.notify_all()
        progress = self._ledger.progress()
        self._turns.begin(progress.limit - progress.done)
        return progress, self._broken

    def begun(self) -> Begun:
        """Return where the search is, to go on there after an interruption."""
        ids = np.array(self._publication.evaluation_ids, dtype=np.int64)
        return Begun(self._batches, ids, self._turns.vain)

    @ray.method(concurrency_group=_WAITING)
    def published(self, batches: int = 0, size: int = 0, order: str = "", learned: int = 0) -> News:
        """Return what :meth:`publish` let out, once it was told of so many batches.

        Args:
            batches: Their number.
            size: See :meth:`Publication.since`, likewise the others.
            order: Of the records known.
            learned: Of how many there is a basis.
        """
        with self._published:
            self._published.wait_for(lambda: not self._waits or self._batches >= batches)
            return self._publication.since(size, order, learned)

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
            self._publication.note(claim.record)
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
        self._publication.note(record)
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
        with self._published:
            self._waits = False
            self._published.notify_all()

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
    name: str,
    store: EvaluationStore,
    limit: int,
    task: ray.ObjectRef,
    workers: int,
    begun: Begun | None = None,
) -> Any:
    """Start the actor under a name that workers find it by; it restarts if it is killed.

    It stays on the driver's node, whose disk holds the run directory.

    Args:
        name: The actor's.
        store: The run's.
        limit: Number of evaluations.
        task: Reference to the :class:`Task`, which the caller keeps as long as the actor is to
            restart: Ray does not keep an argument that is too large to travel with the call.
        workers: Number of those that measure.
        begun: Where an interrupted search goes on; by default it begins.
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
    return actor.options(**options).remote(store, limit, [task], workers, begun or Begun())
