"""The ledger: who may evaluate what, so that every variant is measured once and N are in all.

All workers of a run ask one ledger before they measure. It answers from the cache, grants an
evaluation, or says that the run's number is reached. What is measured, and what cannot be, is
stored before the worker hears of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from rl_compress.runs.failure import Failure
from rl_compress.runs.grants import MOST_LOSSES
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore

DRIVER = 0
"""Worker that measures the search's reference before any other begins."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The ledger's answer."""

    status: Literal["granted", "cached", "failed", "deadly", "pending", "exhausted"]
    """`deadly`: say that the variant failed, for whoever measures it dies; `pending`: another
    worker is measuring this variant, ask again."""
    evaluation_id: int = -1
    """Id of the granted evaluation."""
    record: EvaluationRecord | None = None
    """The record that answers a cached claim."""
    incumbent: EvaluationRecord | None = None
    """What a granted variant is raced against; None for the first ones."""
    error: str = ""
    """Why a variant failed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    done: int
    limit: int
    cache_hits: int
    failures: int
    best: EvaluationRecord | None
    lost: int = 0
    """Measurements that were begun and never ended, for their process died; in all processes of
    the run, those before it was resumed included."""
    retried: int = 0
    """Measurements that were begun again for that."""

    @property
    def exhausted(self) -> bool:
        """Say whether the run's number of evaluations is reached."""
        return self.done >= self.limit


class Ledger(Protocol):
    """What workers need of a ledger, be it in this process or an actor."""

    def claim(
        self, policy_id: str, worker: int, meanwhile: Callable[[], None] | None = None
    ) -> Claim:
        """Ask to measure a variant; `meanwhile` is done if the answer takes its time."""

    def complete(self, record: EvaluationRecord) -> None:
        """Hand in a measured variant."""

    def fail(self, policy_id: str, worker: int, error: str, policy: str = "") -> None:
        """Say that a granted variant could not be measured."""

    def progress(self) -> Progress:
        """Return the run's figures."""


class EvaluationLedger:
    """The ledger of one run, on top of its store."""

    def __init__(
        self,
        store: EvaluationStore,
        limit: int,
        may_win: Callable[[EvaluationRecord], bool] = lambda _record: True,
    ) -> None:
        """Take over what the store holds already.

        Args:
            store: Where records go.
            limit: Number of distinct variants that the run measures.
            may_win: Whether a record can be the best; by default all can.

        Raises:
            CorruptFileError: The store cannot be read.
        """
        self._store = store
        self._limit = limit
        self._may_win = may_win
        self._records = {record.policy_id: record for record in store.read()}
        self._next_id = 1 + max(
            (record.evaluation_id for record in self._records.values()), default=-1
        )
        self._grants = store.open_grants()
        self._in_flight: dict[str, int] = {}
        self._granted: dict[str, int] = {}
        self._failed = {failure.policy_id: failure.error for failure in store.read_failures()}
        self._lost = self._grants.lost(self._records.keys() | self._failed.keys())
        self._cache_hits = 0
        self._best: EvaluationRecord | None = None
        self._best_by: dict[int, EvaluationRecord] = {}
        for record in self._records.values():
            self._note_best(record)

    def claim(
        self,
        policy_id: str,
        worker: int,
        meanwhile: Callable[[], None] | None = None,
        *,
        grants: bool = True,
    ) -> Claim:
        """Answer a worker that wants to measure a variant, at once: `meanwhile` is left undone.

        A worker measures one variant at a time, so its new claim ends an earlier one that it never
        handed in (it was killed, and this is its successor). A variant that its workers did not
        survive several times is not granted again.

        Args:
            policy_id: Of the variant.
            worker: Index of the worker that asks.
            meanwhile: Not used here.
            grants: Whether it may measure what is not known; if not, there is nothing left for it.

        Raises:
            StorageError: The grant cannot be noted.
        """
        self.release(worker)
        if policy_id in self._records:
            self._cache_hits += 1
            return Claim("cached", record=self._records[policy_id])
        if policy_id in self._failed:
            return Claim("failed", error=self._failed[policy_id])
        if policy_id in self._in_flight:
            return Claim("pending")
        if len(self._records) >= self._limit or not grants:
            return Claim("exhausted")
        if len(self._records) + len(self._in_flight) >= self._limit:
            return Claim("pending")  # a granted evaluation may yet fail and free its place
        if self._grants.is_deadly(policy_id):
            return Claim(
                "deadly",
                error=f"the process that measured it died, {MOST_LOSSES} times; out of memory, or "
                f"a crash in native code",
            )
        self._grants.note(policy_id, worker)
        self._in_flight[policy_id] = worker
        self._granted[policy_id] = self._next_id
        self._next_id += 1
        return Claim(
            "granted", evaluation_id=self._next_id - 1, incumbent=self._incumbent_of(worker)
        )

    def release(self, worker: int) -> None:
        """Let others measure what a worker was granted and never handed in: it is dead."""
        for policy_id, holder in list(self._in_flight.items()):
            if holder == worker:
                del self._in_flight[policy_id]
                self._lost += 1

    def complete(self, record: EvaluationRecord) -> None:
        """Store a record, then count it; a second record of the same variant is dropped."""
        try:
            self._take(record)
        finally:
            # Not before it is known, or the variant would be granted once more meanwhile.
            self._in_flight.pop(record.policy_id, None)

    def _take(self, record: EvaluationRecord) -> None:
        if record.policy_id in self._records or len(self._records) >= self._limit:
            return
        self._lost -= record.policy_id not in self._in_flight  # it was given up too early
        if self._granted.get(record.policy_id) != record.evaluation_id:
            # Granted by this ledger's predecessor, which was killed: the id may be taken since.
            record = dataclasses.replace(record, evaluation_id=self._next_id)
            self._next_id += 1
        self._store.append(record)
        self._records[record.policy_id] = record
        self._note_best(record)

    def fail(self, policy_id: str, worker: int, error: str, policy: str = "") -> None:
        """Free the place of a variant that could not be measured, and never grant it again.

        Args:
            policy_id: Of the variant.
            worker: Who tried.
            error: What happened.
            policy: The variant's decisions, as JSON.
        """
        try:
            if policy_id not in self._failed:
                if policy_id not in self._in_flight:
                    if self._grants.is_deadly(policy_id):
                        self._grants.give_up(policy_id)
                    else:
                        self._lost -= 1
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self._store.append_failure(
                    Failure(
                        policy_id=policy_id, policy=policy, worker=worker, error=error, time=now
                    )
                )
            self._failed[policy_id] = error
        finally:
            if self._in_flight.get(policy_id) == worker:
                del self._in_flight[policy_id]

    def records(self) -> list[EvaluationRecord]:
        """Return all that was measured, in the order of being stored."""
        return list(self._records.values())

    def progress(self) -> Progress:
        """Return the run's figures."""
        return Progress(
            done=len(self._records),
            limit=self._limit,
            cache_hits=self._cache_hits,
            failures=len(self._failed),
            best=self._best,
            lost=self._lost,
            retried=self._grants.retried,
        )

    def last_error(self) -> str | None:
        """Return the error of the variant that failed last."""
        return next(reversed(self._failed.values()), None)

    def _incumbent_of(self, worker: int) -> EvaluationRecord | None:
        """Return the best of what this worker and the driver measured.

        What other workers measured by now depends on timing, and so would the rewards of dropped
        variants. These records do not, and a resumed run finds them in its store.
        """
        own = [self._best_by[by] for by in (DRIVER, worker) if by in self._best_by]
        return max(own, key=_rank, default=None)

    def _note_best(self, record: EvaluationRecord) -> None:
        best, by = self._best, self._best_by.get(record.worker)
        is_best = best is None or _rank(record) > _rank(best)
        is_best_by = by is None or _rank(record) > _rank(by)
        # Costs are not computed, for a bound on them, where the reward decides already.
        if not (is_best or is_best_by) or not (record.scored_in_full and self._may_win(record)):
            return
        if is_best:
            self._best = record
        if is_best_by:
            self._best_by[record.worker] = record


def _rank(record: EvaluationRecord) -> tuple[float, int]:
    # Of equal rewards the earlier stays, so that the best does not depend on timing.
    return record.reward, -record.evaluation_id
