"""From candidate to record: asks the ledger, measures if granted, hands the record in."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping

from rl_compress.errors import EvaluationError
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.ledger import Claim, Ledger
from rl_compress.evaluation.measurement import RunIdentity, make_record
from rl_compress.evaluation.racing import Rival
from rl_compress.evaluation.shared import SharedEvaluator
from rl_compress.runs.record import EvaluationRecord
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.search_space import Levels, SearchSpace

logger = logging.getLogger(__name__)

_POLL_S = 0.02

Reward = Callable[[float, Mapping[str, float]], float]


class CandidateEvaluator:
    """Answers candidates with records, each variant of a run being measured once."""

    def __init__(
        self,
        evaluator: Evaluator | SharedEvaluator,
        ledger: Ledger,
        space: SearchSpace,
        reward: Reward,
        identity: RunIdentity,
        worker: int = 0,
        build_ahead: Callable[[Levels], None] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            evaluator: Measures variants in this process, or finds what others measured.
            ledger: The run's one ledger.
            space: Names the decisions of levels.
            reward: ``(score, costs) -> reward`` of the objective.
            identity: Fields common to all records.
            worker: Index of this worker; 0 is the driver.
            build_ahead: Begins with a variant while a remote ledger answers.
        """
        self._build_ahead = build_ahead
        self.evaluator = evaluator
        self._ledger = ledger
        self._space = space
        self.reward = reward
        self._identity = identity
        self._worker = worker

    def __call__(self, levels: Levels, candidate: str | None = None) -> EvaluationRecord | None:
        """Return the record of a variant, measured now or before.

        Args:
            levels: Within the budget, shape ``(D,)``.
            candidate: The policy that was asked for, as JSON; by default the realised one.

        Returns:
            The record, or None when the run's number of evaluations is reached.

        Raises:
            EvaluationError: The variant could not be measured.
        """
        policy = self._space.policy_of(levels)
        policy_id = policy.policy_id
        build = self._build_ahead and functools.partial(self._build_ahead, levels)
        while True:
            claim = self._ledger.claim(policy_id, self._worker, build)
            if claim.status == "cached":
                return claim.record
            if claim.status == "exhausted":
                return None
            if claim.status == "failed":
                raise EvaluationError(f"variant {policy_id} failed before ({claim.error})")
            if claim.status == "deadly":
                self._fail(policy, claim, claim.error)
                raise EvaluationError(f"variant {policy_id} failed ({claim.error})")
            if claim.status == "granted":
                break
            time.sleep(_POLL_S)
        try:
            found = self.evaluator.evaluate(levels, self._rival(claim.incumbent))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self._fail(policy, claim, message)
            raise EvaluationError(f"variant {policy_id} failed ({message})") from error
        record = make_record(
            found,
            policy,
            self._identity,
            worker=self._worker,
            evaluation_id=claim.evaluation_id,
            candidate=candidate,
            reward=self.reward(found.score, found.costs),
        )
        self._ledger.complete(record)
        self._log(
            "evaluated",
            record.evaluation_id,
            policy_id,
            score=record.score,
            reward=record.reward,
            wall_s=record.wall_s,
        )
        return record

    def _fail(self, policy: CompressionPolicy, claim: Claim, error: str) -> None:
        self._ledger.fail(policy.policy_id, self._worker, error, policy.to_json())
        self._log("failed", claim.evaluation_id, policy.policy_id, error=error)

    def _log(self, event: str, evaluation_id: int, policy_id: str, **found: float | str) -> None:
        """Write a line, with its parts as fields for programs."""
        if not logger.isEnabledFor(logging.INFO):
            return
        fields = {
            "run": self._identity.run,
            "trial": self._identity.trial,
            "worker": self._worker,
            "evaluation_id": evaluation_id,
            "policy_id": policy_id,
            **found,
        }
        text = ", ".join(f"{name} {value}" for name, value in fields.items() if value != "")
        logger.info("%s: %s", event, text, extra={"event": event, **fields})

    def _rival(self, incumbent: EvaluationRecord | None) -> Rival | None:
        if incumbent is None:
            return None
        reward = incumbent.reward

        def needed(costs: Mapping[str, float]) -> float:
            # The reward is linear in the score, and a candidate's costs are known before it.
            without = self.reward(0.0, costs)
            weight = self.reward(1.0, costs) - without
            return (reward - without) / weight if weight > 0 else float("-inf")

        levels = self._space.levels_of(incumbent.realised_policy())
        return Rival(levels, incumbent.score, needed)
