"""What workers learn of each other: records are let out batch by batch, and told only once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_compress.agent.task import Task
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.active_set import ActiveSets
from rl_compress.searchers.known import Basis, Known
from rl_compress.searchers.reward_predictor import Floats
from rl_compress.space.search_space import Levels


@dataclass(frozen=True, slots=True)
class News:
    """Records that a worker has not heard of."""

    after: int
    """Number of those it has heard of; 0 if it is to forget them, for this is all there is."""
    levels: Levels
    rewards: Floats
    order: str
    """Names the order of records, which is another one when the coordinator was restarted."""
    basis: Basis | None
    """What was learned of the first records, if that is news."""


class Publication:
    """Keeps the order in which records became known, which timing has no part in.

    A few are ordered by their policies' ids. Once there are more than the reward predictor learns
    from in whole, the order stays, each batch comes after those before, and what takes time to
    learn of all is learned here, once for all workers.
    """

    def __init__(self, task: Task) -> None:
        """Begin with nothing."""
        self._task = task
        self._noted: dict[str, EvaluationRecord] = {}
        self._told: dict[str, int] = {}
        self._known, self._order = Known(), ""
        self._first: dict[str, tuple[Levels, float]] = {}
        problem = task.problem
        budgets = [goal.budget for goal in task.goals] or [problem.budget]
        self._budgets = list(dict.fromkeys(budgets))
        self._screening = task.screening()

    @property
    def evaluation_ids(self) -> list[int]:
        """Return the ids of the records that were let out, in their order."""
        return list(self._told.values())

    def note(self, record: EvaluationRecord) -> None:
        """Keep a record until it is let out."""
        if record.policy_id not in self._told:
            self._noted[record.policy_id] = record

    def restore(self, records: Sequence[EvaluationRecord]) -> None:
        """Let records out that were let out before, in that order."""
        self._let_out([(record.policy_id, record) for record in records])

    def let_out(self) -> None:
        """Let out what was noted."""
        # By id, for the order in which records came depends on timing.
        self._let_out(sorted(self._noted.items()))
        self._noted.clear()

    def _let_out(self, records: Sequence[tuple[str, EvaluationRecord]]) -> None:
        self._told |= {policy_id: record.evaluation_id for policy_id, record in records}
        if self._screening is None or not records:
            return
        space = self._task.problem.space
        new = {i: (space.levels_of(r.realised_policy()), r.reward) for i, r in records}
        if not self._order:
            self._first |= new
            if len(self._first) <= self._task.learned_from:
                self._known = Known(*_columns(dict(sorted(self._first.items()))))
                return
            # Told in this order from now on.
            self._order = uuid.uuid4().hex
            if len(new) < len(self._first):
                new = dict(sorted(self._first.items()))
                self._told = dict(sorted(self._told.items()))
            self._known, self._first = Known(), {}
        self._known.add(*_columns(new))
        size = ActiveSets(self._task.learned_from).settled(len(self._known))
        if self._known.basis is None or self._known.basis.size != size:
            self._known.basis = self._screening.basis(self._known, self._budgets)

    def since(self, size: int, order: str, learned: int) -> News:
        """Return what a worker has not heard of.

        Args:
            size: Number of records that it knows.
            order: Their order's name.
            learned: Size of the basis that it has; 0 for none.
        """
        known, basis = self._known, self._known.basis
        after = size if self._order and order == self._order else 0
        if after and basis is not None and basis.size == learned:
            basis = None
        return News(after, known.levels[after:], known.rewards[after:], self._order, basis)


def _columns(records: dict[str, tuple[Levels, float]]) -> tuple[Levels, Floats]:
    levels, rewards = zip(*records.values(), strict=True)
    return np.stack(levels), np.array(rewards)
