"""The search itself: sensitivities, prior, and the algorithm that improves on it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
from collections.abc import Callable, Sequence

import numpy as np

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.env import Problem
from rl_compress.errors import EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator, Reward, RunIdentity
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.ledger import EvaluationLedger, Progress
from rl_compress.evaluation.shared import SharedEvaluator, SharedMeasurements, Sharing
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.baseline_search import run_baseline
from rl_compress.searchers.convergence import Convergence
from rl_compress.searchers.goals import Goal, drawn_budgets, reference_rewards, shares
from rl_compress.searchers.mask_prior import mask_prior
from rl_compress.searchers.objective import Objective, ObjectiveConfig
from rl_compress.searchers.preparation import Subject
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.score_log import ScoreLog
from rl_compress.searchers.searcher import SearchProblem, make_searcher
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.searchers.shared_curves import (
    keep_shared,
    load_shared,
    measurement_key,
    shared_path,
)
from rl_compress.space.budget import Budget
from rl_compress.space.mask_projection import decides_masks, project_mask
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels
from rl_compress.targets.factory import TargetConfig

logger = logging.getLogger(__name__)

_SMALLEST_SCALE = 0.1
"""Unit of rewards, at least, as a share of how far the uniform variant's is from the prior's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """A search with all that it needs."""

    subject: Subject
    target: TargetConfig
    objective: ObjectiveConfig
    evaluation: EvaluationConfig
    search: SearchConfig
    run: RunDirectory
    identity: RunIdentity
    contribution_threshold: float
    """Where contribution pruning draws the line; used by that algorithm."""
    address: str | None = None
    measurements: SharedMeasurements | None = None
    """What other trials of the same sweep measured."""
    on_sensitivity: Callable[[int, int], None] = lambda _done, _total: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    say: Callable[[str], None] = lambda _line: None

    def make_evaluator(self) -> Evaluator:
        """Return an evaluator for the driver."""
        return Evaluator(
            self.subject.target,
            self.subject.compressor,
            self.objective.score,
            self.evaluation,
            latency=self.objective.needs_latency,
            score_options=self.objective.options_of_score,
        )

    def search_for_policy(self) -> tuple[Progress, str | None]:
        """Search until the evaluations are used up.

        Returns:
            The run's figures, and why it ended early, or None.
        """
        own, sharing = self.make_evaluator(), self._sharing(self.evaluation)
        space = self.subject.compressor.space
        evaluator = own if sharing is None else SharedEvaluator(own, space, sharing)
        exact: Evaluator | SharedEvaluator = own.in_float32()
        if exact is own:
            exact = evaluator
        elif (others := self._sharing(self.evaluation.in_float32())) is not None:
            exact = SharedEvaluator(own.in_float32(), space, others)
        store = self.run.store()
        ledger = EvaluationLedger(store, self.search.evaluations, self.subject.may_win)
        self.on_progress(ledger.progress())
        curves = self.curves(exact) if self.search.needs == "curves" else None
        self.run.push()
        reward = Objective(self.objective, evaluator.original_costs)
        candidates = CandidateEvaluator(evaluator, ledger, space, reward, self.identity)
        if self.search.learns:
            found = self._learn(evaluator, ledger, candidates, reward, curves, sharing)
        else:
            found = self._baseline(ledger, candidates, curves)
        store.compact()
        return found

    def _sharing(self, evaluation: EvaluationConfig) -> Sharing | None:
        """Return where to look for others' measurements; None outside a sweep."""
        if self.measurements is None:
            return None
        latencies = (self.objective.needs_latency, self.subject.latency_table)
        key = measurement_key(
            self.subject,
            self.target,
            evaluation,
            self.objective.score,
            self.objective.options_of_score,
            latencies=pickle.dumps(latencies),
        )
        return Sharing(self.measurements, key, self.identity.trial)

    def curves(self, evaluator: Evaluator | SharedEvaluator) -> SensitivityCurves:
        """Return the sensitivity curves, measured only if no search on the same target has.

        They are taken from the run directory, or from the cache that all searches share, and are
        kept in both. Curves with failures, which may not fail again, are kept in the former alone.

        Args:
            evaluator: Measures in float32: the loss of a single layer can be as small as the
                rounding of bfloat16.
        """
        path = self.run.sensitivity
        if path.exists():
            return SensitivityCurves.load(path)
        shared = shared_path(
            self.subject,
            self.target,
            self.evaluation.in_float32(),
            self.objective.score,
            self.objective.options_of_score,
            self.search.sensitivity_levels,
        )
        if (curves := load_shared(shared)) is not None:
            self.say(f"sensitivities reused from {shared} (remove it to measure them again)")
            curves.save(path)
            return curves
        failed = False

        def measure(levels: Levels) -> float | None:
            nonlocal failed
            score = log(levels)
            failed = failed or score is None
            return score

        space = self.subject.compressor.space
        log = ScoreLog(path.with_suffix(".jsonl"), space, lambda levels: _score(evaluator, levels))
        curves = measure_sensitivity(
            space,
            measure,
            self.search.sensitivity_levels,
            self.on_sensitivity,
        )
        curves.save(path)
        log.close()
        if not failed:
            keep_shared(shared, path)
        return curves

    def rewards_in_float32(self, records: Sequence[EvaluationRecord]) -> dict[str, float]:
        """Return records' rewards as measured in float32, by policy id, and keep them in the run.

        What was measured before is not measured again, and what fails is left out. Where the
        search measures in float32 there is nothing to do.

        Args:
            records: Of variants.
        """
        if self.evaluation.precision == "float32":
            return {}
        exact = self.make_evaluator().in_float32()
        space, rewards = self.subject.compressor.space, self.run.ranking()
        reward = Objective(self.objective, exact.original_costs)
        for record in records:
            if record.policy_id not in rewards:
                score = _score(exact, space.levels_of(record.realised_policy()))
                if score is not None:
                    rewards[record.policy_id] = reward(score, record.costs())
                    self.run.write_ranking(rewards)
        return rewards

    def _baseline(
        self,
        ledger: EvaluationLedger,
        candidates: CandidateEvaluator,
        curves: SensitivityCurves | None,
    ) -> tuple[Progress, str | None]:
        budget, compressor = self.subject.budget, self.subject.compressor
        space, costs = compressor.space, compressor.costs
        problem = SearchProblem(
            space,
            budget,
            costs,
            self.search.seed,
            curves,
            importances=compressor.importances,
            layers=[parent.name for parent in compressor.parents],
            contribution=compressor.contribution,
            contribution_threshold=self.contribution_threshold,
        )
        baseline = make_searcher(self.search.algorithm, problem, self.search.algorithm_options)
        convergence = Convergence(
            self.search.convergence, EvaluationStore(self.run.evaluations).read
        )
        reason = run_baseline(
            baseline, candidates, ledger, space, budget, costs, self.on_progress, convergence
        )
        return ledger.progress(), reason

    def _learn(
        self,
        evaluator: Evaluator | SharedEvaluator,
        ledger: EvaluationLedger,
        candidates: CandidateEvaluator,
        reward: Reward,
        curves: SensitivityCurves | None,
        sharing: Sharing | None,
    ) -> tuple[Progress, str | None]:
        # Ray takes seconds to import, and baselines do without it.
        from rl_compress.agent.rllib.coordinator import WorkerKit
        from rl_compress.agent.rllib.driver import run_rllib
        from rl_compress.agent.rllib.standby import portable_factory
        from rl_compress.agent.rllib.weights import write_weights

        problem = self._problem(evaluator, candidates, reward, curves)
        self.on_progress(ledger.progress())
        if ledger.progress().exhausted:
            return ledger.progress(), None
        shared = problem.compressor.network.tensors
        weights = write_weights(shared)
        compressor = problem.compressor.with_tensors(shared, weights.with_suffix(""))
        kit = WorkerKit(
            target=self.target,
            problem=dataclasses.replace(problem, compressor=compressor.without_weights()),
            weights=weights,
            score=self.objective.score,
            evaluation=self.evaluation,
            latency=self.objective.needs_latency,
            score_options=self.objective.options_of_score,
            reward=reward,
            identity=self.identity,
            sharing=sharing,
            factory=portable_factory(self.target),
        )
        return run_rllib(
            kit,
            self.search,
            store=self.run.store(),
            checkpoints=self.run.checkpoints,
            on_checkpoint=self.run.push,
            tensorboard=self.run.path / "tensorboard",
            address=self.address,
            advance=self.on_progress,
            say=self.say,
        )

    def _problem(
        self,
        evaluator: Evaluator | SharedEvaluator,
        candidates: CandidateEvaluator,
        reward: Reward,
        curves: SensitivityCurves | None,
    ) -> Problem:
        """Set up the agent's problem; its reference is the first variant of the run."""
        subject, compressor = self.subject, self.subject.compressor
        space, costs, budget = compressor.space, compressor.costs, subject.budget
        prior: Levels | None = None
        if decides_masks(space):
            importances = np.concatenate(compressor.importances)
            uniform = project_mask(space.full, importances, budget, space, costs)
            if curves is not None:
                prior = mask_prior(curves, budget, space, costs, reward)
        else:
            uniform = project(np.full(len(space), 0.5), budget, space, costs)
            if curves is not None:
                prior = greedy_levels(curves, budget, space, costs)
        references = [uniform, space.smallest]
        record = _first(candidates, references if prior is None else [prior, *references])
        screens = self.search.screens and not decides_masks(space)
        spread = 0.0
        if screens:
            # Far from the prior, it tells the reward predictor how much rewards can differ.
            with contextlib.suppress(EvaluationError):
                if (far := candidates(uniform)) is not None:
                    spread = abs(record.reward - far.reward)
        full = compressor.space.full
        original = evaluator.evaluate(full).score if curves is None else curves.original_score
        original_reward = reward(original, evaluator.original_costs)
        own = Goal(budget, prior, record.reward)
        return Problem(
            compressor=compressor,
            budget=subject.budget,
            curves=curves,
            prior=prior,
            reference_reward=record.reward,
            original_reward=original_reward,
            screens=screens,
            smallest_scale=max(_SMALLEST_SCALE * spread, 1e-6),
            episode=self.search.episode,
            residual_scale=self.search.residual_scale,
            budget_handling=self.search.handling,
            goals=self._goals(own, candidates, curves, original_reward),
        )

    def _goals(
        self,
        own: Goal,
        candidates: CandidateEvaluator,
        curves: SensitivityCurves | None,
        original_reward: float,
    ) -> tuple[Goal, ...]:
        """Return what episodes are played for; nothing where there is one budget only."""
        space, costs = self.subject.compressor.space, self.subject.compressor.costs
        if not self.subject.others:
            return ()

        def recommended(budget: Budget) -> Levels:
            if curves is None:
                return project(np.full(len(space), 0.5), budget, space, costs)
            return greedy_levels(curves, budget, space, costs)

        drawn = drawn_budgets([own.budget, *self.subject.others])
        levels = [recommended(one.budget) for one in drawn]
        measured = [own.reference_reward] + [
            _first(candidates, [found, space.smallest]).reward
            for found in levels[1 : 1 + len(self.subject.others)]
        ]
        rewards = reference_rewards(drawn, measured, original_reward)
        dealt = shares(drawn, [original_reward - reward for reward in rewards])
        return tuple(
            Goal(one.budget, None if curves is None else found, reference, share)
            for one, found, reference, share in zip(drawn, levels, rewards, dealt, strict=True)
        )


def _score(evaluator: Evaluator | SharedEvaluator, levels: Levels) -> float | None:
    try:
        return evaluator.evaluate(levels).score
    except Exception as error:
        logger.warning("a variant could not be evaluated (%s: %s)", type(error).__name__, error)
        return None


def _first(candidates: CandidateEvaluator, references: list[Levels]) -> EvaluationRecord:
    """Return the record of the first reference that can be evaluated."""
    for number, levels in enumerate(references):
        try:
            record = candidates(levels)
        except EvaluationError:
            if number + 1 == len(references):
                raise
        else:
            if record is not None:
                return record
    raise EvaluationError("the run's evaluations are used up before its first")
