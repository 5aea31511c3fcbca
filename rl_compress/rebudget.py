"""A run's policy for another budget, without another search.

What a run measured, for whichever budgets, tells the reward predictor what variants within the new
one are worth. So three are compared: the best one measured, the prior for the budget, and the one
whose loss is predicted to be the lowest near the best. They are scored on the search split, and the
best is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.inspection import best_policy
from rl_compress.job import Job, load_job
from rl_compress.monitor import Monitor
from rl_compress.policy.budget import LATENCY
from rl_compress.policy.compression_policy import CompressionPolicy
from rl_compress.policy.mask_projection import decides_masks
from rl_compress.policy.search_space import Widths
from rl_compress.results.record import EvaluationRecord
from rl_compress.results.run_directory import RunDirectory
from rl_compress.results.store import EvaluationStore
from rl_compress.run import make_task, prepare_job
from rl_compress.search.objective import Objective
from rl_compress.search.preparation import Subject
from rl_compress.search.prior import greedy_widths
from rl_compress.search.screening import Known, Screening
from rl_compress.search.sensitivity import SensitivityCurves

_SEED = 0
"""Of the mutations: the same run and budget give the same proposal."""


def load_for_budget(path: Path, overrides: Sequence[str], budget: Sequence[str]) -> Job:
    """Load a job with another budget in the place of its own, of its device's and of its agent's.

    Args:
        path: The job file.
        overrides: ``KEY=VALUE`` each.
        budget: ``COST=VALUE`` each.

    Raises:
        ConfigError: The job is not valid with them.
    """
    # What is decided stays what it is, or policies of the run would not fit.
    own = load_job(path, overrides).space.quantization
    bits = [
        f"space.quantization.{key}={getattr(own, key)}"
        for key in ("weight_bits", "activation_bits")
    ]
    bounds = [f"budget.{bound}" for bound in budget]
    others = ["device=null", "search.budgets=[]", "budget={}"]
    return load_job(path, [*overrides, *bits, *others, *bounds])


def policy_of_run(
    job: Job, directory: Path, monitor: Monitor, *, other_budget: bool
) -> CompressionPolicy:
    """Return the policy that a run recommends for the job's budget.

    Args:
        job: The run's job, perhaps with another budget.
        directory: The run's.
        monitor: Hears of what is compared.
        other_budget: Whether the run was made for another one; it is then asked for proposals.

    Raises:
        ConfigError: The run has no evaluation within the budget, and cannot propose one.
        EvaluationError: No policy for the budget can be evaluated.
    """
    bounds = job.effective_budget()
    if not other_budget and LATENCY not in bounds:
        return best_policy(directory, bounds)
    subject = prepare_job(job, directory / "pretraining", monitor)
    if other_budget:
        return policy_for(job, directory, subject, monitor)
    return best_policy(directory, bounds, subject)


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
        EvaluationError: No policy for the budget can be evaluated.
    """
    run, space = RunDirectory(directory), subject.compressor.space
    curves: SensitivityCurves | None = None
    if run.sensitivity.exists() and not decides_masks(space):
        curves = SensitivityCurves.load(run.sensitivity)
    try:
        stored = best_policy(directory, job.effective_budget(), subject)
    except ConfigError:
        if curves is None:
            raise
        compared: dict[str, Widths] = {}
    else:
        if curves is None:
            return stored
        compared = {"the best evaluated": space.widths_of(stored)}
    monitor.phase("policies for the budget")
    evaluator = make_task(job, subject, run).make_evaluator()
    reward = Objective(job.objective, evaluator.original_costs)
    original = reward(curves.original_score, evaluator.original_costs)
    records = [r for r in EvaluationStore(run.evaluations).read() if r.scored_in_full]
    compared |= proposals(subject, curves, records, original)
    rewards, said = {}, []
    for name, widths in compared.items():
        try:
            found = evaluator.evaluate(widths)
        except EvaluationError as error:
            said.append(f"{name} cannot be scored ({error})")
        else:
            rewards[name] = reward(found.score, found.all_costs())
            said.append(f"{name} {found.score:.4f}")
    if not rewards:
        raise EvaluationError(f"--run {directory}: no policy for the budget: {', '.join(said)}")
    taken = max(rewards, key=rewards.__getitem__)
    monitor.say(f"{job.objective.score} on the search split: {', '.join(said)}; {taken} is taken")
    return space.policy_of(compared[taken])


def proposals(
    subject: Subject,
    curves: SensitivityCurves,
    records: Sequence[EvaluationRecord],
    original_reward: float,
) -> dict[str, Widths]:
    """Return what may be the best within a budget, of all that was not measured.

    Args:
        subject: The target as prepared for the budget.
        curves: Of the run.
        records: The run's, scored in full, of any budgets.
        original_reward: Reward of the uncompressed target.

    Returns:
        By name levels within the budget, shape ``(D,)`` each.
    """
    space, costs, budget = subject.compressor.space, subject.compressor.costs, subject.budget
    prior = greedy_widths(curves, budget, space, costs)
    known = Known.nothing()
    if records:
        known = Known(
            np.stack([space.widths_of(record.realised_policy()) for record in records]),
            np.array([record.reward for record in records]),
        )
    proposal = Screening(space, costs, curves, original_reward).improve(
        known.within(budget, costs).best(prior),
        budget,
        known,
        np.random.default_rng(_SEED),
        curiosity=0.0,
    )
    return {"the prior": prior, "the proposal": proposal}
