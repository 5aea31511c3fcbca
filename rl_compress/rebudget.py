"""A run's policy for another budget, without another search.

What a run measured, for whichever budgets, tells the reward predictor what variants within the new
one are worth. So three are compared: the best one measured, the prior for the budget, and the one
whose loss is predicted to be the lowest near the best. They are scored on the search split, and the
best is taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.inspection import best_policy
from rl_compress.job import Job
from rl_compress.monitor import Monitor
from rl_compress.policy.compression_policy import CompressionPolicy
from rl_compress.policy.mask_projection import decides_masks
from rl_compress.policy.search_space import Widths
from rl_compress.results.run_directory import RunDirectory
from rl_compress.results.store import EvaluationStore
from rl_compress.run import make_task
from rl_compress.search.objective import Objective
from rl_compress.search.preparation import Subject
from rl_compress.search.prior import greedy_widths
from rl_compress.search.screening import Known, Screening
from rl_compress.search.sensitivity import SensitivityCurves

_SEED = 0
"""Of the mutations: the same run and budget give the same proposal."""


def policy_for(job: Job, directory: Path, subject: Subject, monitor: Monitor) -> CompressionPolicy:
    """Return the best policy that a run can tell for a budget that it was not made for.

    Args:
        job: The run's job with the new budget.
        directory: The run's.
        subject: The target as prepared for the budget.
        monitor: Hears of what was compared.

    Raises:
        ConfigError: The run has no evaluation within the budget, and no sensitivity curves to
            propose one by.
    """
    run = RunDirectory(directory)
    space, costs, budget = subject.compressor.space, subject.compressor.costs, subject.budget
    curves = _curves(run, subject)
    chosen: dict[str, Widths] = {}
    try:
        stored = best_policy(directory, job.effective_budget(), subject)
    except ConfigError:
        if curves is None:
            raise
    else:
        if curves is None:
            return stored
        chosen["the best evaluated"] = space.widths_of(stored)
    prior = greedy_widths(curves, budget, space, costs)
    chosen["the prior"] = prior
    evaluator = make_task(job, subject, run).make_evaluator()
    reward = Objective(job.objective, evaluator.original_costs)
    original = reward(curves.original_score, evaluator.original_costs)
    records = [r for r in EvaluationStore(run.evaluations).read() if r.scored_in_full]
    if len(records) > 1:
        known = Known(
            np.stack([space.widths_of(record.realised_policy()) for record in records]),
            np.array([record.reward for record in records]),
        )
        chosen["the proposal"] = Screening(space, costs, curves, original).improve(
            known.within(budget, costs).best(prior),
            budget,
            known,
            np.random.default_rng(_SEED),
            curiosity=0.0,
        )
    distinct = {tuple(widths.tolist()): name for name, widths in reversed(chosen.items())}
    monitor.phase("policies for the budget")
    rewards: dict[str, float] = {}
    scores: dict[str, float] = {}
    for name in sorted(distinct.values(), key=list(chosen).index):
        try:
            found = evaluator.evaluate(chosen[name])
        except EvaluationError as error:
            monitor.say(f"{name} could not be evaluated ({error})")
            continue
        scores[name] = found.score
        rewards[name] = reward(found.score, found.all_costs())
    if not rewards:
        raise EvaluationError(f"--run {directory}: no policy for the budget could be evaluated")
    taken = max(rewards, key=rewards.__getitem__)
    listed = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    monitor.say(f"{job.objective.score} on the search split: {listed}; {taken} is taken")
    return space.policy_of(chosen[taken])


def _curves(run: RunDirectory, subject: Subject) -> SensitivityCurves | None:
    """Return the run's curves; None where it has none, or decides masks."""
    space = subject.compressor.space
    if decides_masks(space) or not run.sensitivity.exists():
        return None
    return SensitivityCurves.load(run.sensitivity)
