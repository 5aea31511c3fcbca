"""Measurements that searches share: what one trial of a sweep measured, no other measures again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, Protocol

from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.measurement import Measurement, RunIdentity, make_record
from rl_compress.evaluation.racing import Rival
from rl_compress.runs.record import EvaluationRecord
from rl_compress.space.search_space import Levels, SearchSpace

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a variant."""

    status: Literal["granted", "known", "pending"]
    """`granted`: measure it, it is leased to you; `pending`: somebody else is, ask again."""
    record: EvaluationRecord | None = None
    """The record that is known; its reward means nothing, for rewards differ with weights."""


class SharedMeasurements(Protocol):
    """The one place that all trials of a sweep ask; picklable, for workers ask too.

    A lease ends when the variant is handed in or given up, or when the process dies that holds it.
    A process measures one variant at a time.
    """

    def claim(self, key: str, policy_id: str) -> Answer:
        """Ask for a variant's measurement, or to make it."""

    def complete(self, key: str, record: EvaluationRecord) -> None:
        """Hand in what was measured; its id is given anew."""

    def give_up(self, key: str, policy_id: str) -> None:
        """Return a lease without a measurement."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Where a search looks for measurements, and as what."""

    measurements: SharedMeasurements
    key: str
    """Digest of all that decides measurements; searches with the same one share them."""
    trial: str
    """Name of the trial that asks."""


class SharedEvaluator:
    """An evaluator that measures only what nobody has measured yet."""

    def __init__(
        self, evaluator: Evaluator, space: SearchSpace, sharing: Sharing, worker: int = 0
    ) -> None:
        """Keep the parts.

        Args:
            evaluator: Measures variants in this process.
            space: Names the decisions of levels.
            sharing: Where others' measurements are.
            worker: Index of this worker; 0 is the driver.
        """
        self._evaluator = evaluator
        self._space = space
        self._sharing = sharing
        self._worker = worker

    @property
    def original_costs(self) -> dict[str, float]:
        """See :attr:`Evaluator.original_costs`."""
        return self._evaluator.original_costs

    def evaluate(self, levels: Levels, rival: Rival | None = None) -> Measurement:
        """Return a variant's measurement, made here or elsewhere.

        A variant that was raced and dropped was not measured to the end, and is not shared.

        Args:
            levels: As for :meth:`Evaluator.evaluate`.
            rival: Likewise.

        Raises:
            EvaluationError: The variant could not be measured; others may try.
        """
        key, measurements = self._sharing.key, self._sharing.measurements
        policy = self._space.policy_of(levels)
        while (answer := measurements.claim(key, policy.policy_id)).status == "pending":
            time.sleep(_POLL_S)
        if answer.record is not None:
            return self._measurement(answer.record)
        try:
            found = self._evaluator.evaluate(levels, rival)
        except BaseException:
            measurements.give_up(key, policy.policy_id)
            raise
        if found.scored_share < 1.0:
            measurements.give_up(key, policy.policy_id)
            return found
        trial = self._sharing.trial
        identity = RunIdentity(run=trial, trial=trial, algorithm="", seed=-1)
        measurements.complete(key, make_record(found, policy, identity, worker=self._worker))
        return found

    def _measurement(self, record: EvaluationRecord) -> Measurement:
        return Measurement(
            score=record.score,
            costs=record.costs,
            wall_s=record.wall_s,
            # A trial that was interrupted finds what it measured itself.
            cached=record.trial != self._sharing.trial,
        )
