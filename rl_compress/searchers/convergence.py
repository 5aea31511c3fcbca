"""When a search has converged: its last so many evaluations found nothing better."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rl_compress.evaluation.ledger import Progress
from rl_compress.runs.record import EvaluationRecord


def evaluations_since_best(records: Iterable[EvaluationRecord]) -> int:
    """Count the evaluations that were granted after the one with the highest reward.

    Records are taken in the order of their ids, which are stored with them, and of equal rewards
    the first counts. So a resumed run comes to the same number as one that was never interrupted.
    """
    rewards = [record.reward for record in sorted(records, key=lambda r: r.evaluation_id)]
    return len(rewards) - 1 - rewards.index(max(rewards)) if rewards else 0


class Convergence:
    """The rule of the job's ``search.convergence``."""

    def __init__(
        self, patience: int | None, records: Callable[[], Iterable[EvaluationRecord]]
    ) -> None:
        """Keep the rule.

        Args:
            patience: Evaluations without a better reward after which a search has converged; None
                if it never has.
            records: Reads all of the run's evaluations.
        """
        self._patience = patience
        self._records = records
        self._best: int | None = None
        self._done = 0
        self._at_most = 0

    def reason(self, progress: Progress) -> str | None:
        """Say why the search ends now, or None if it goes on."""
        if self._patience is None or progress.best is None:
            return None
        # An upper bound tells most of the time that there is no need to read the records.
        new, self._done = progress.done - self._done, progress.done
        unchanged = progress.best.evaluation_id == self._best
        self._at_most = new + (self._at_most if unchanged else 0)
        self._best = progress.best.evaluation_id
        if self._at_most >= self._patience:
            self._at_most = evaluations_since_best(self._records())
        if self._at_most < self._patience:
            return None
        return f"converged: no better policy in {self._patience} evaluations"
