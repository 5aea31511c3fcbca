"""A run's policy for another budget, without another search.

What a run measured, for whichever budgets, tells the reward predictor what variants within the new
one are worth. So the best one measured is compared with the prior for the budget, and with a few
whose loss is predicted to be the lowest near the best. They are scored on the search split, and the
best is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.export.verification import best_distinct
from rl_compress.job import Job, load_job
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.known import Known
from rl_compress.searchers.objective import Objective
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.proposing import MOST, Proposal, proposals
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.session import Session
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.mask_projection import decides_masks
from rl_compress.space.search_space import Levels


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


def policy_of_run(session: Session, run: RunDirectory, *, other_budget: bool) -> CompressionPolicy:
    """Return the best policy that a run can tell for the budget.

    Args:
        session: Prepared, with the run's job, perhaps with another budget.
        run: Its directory; it may still be going on.
        other_budget: Whether the run was made for another one; it is then asked for proposals.

    Raises:
        ConfigError: The run has no evaluation within the budget, and no sensitivity curves to
            propose one by.
        EvaluationError: No policy for the budget can be evaluated.
    """
    problem, space, monitor = session.problem, session.problem.space, session.monitor
    if not other_budget or not run.sensitivity.exists() or decides_masks(space):
        return _best_policy(problem, run)
    curves = SensitivityCurves.load(run.sensitivity)
    stored: CompressionPolicy | None = None
    with contextlib.suppress(ConfigError):
        stored = _best_policy(problem, run)
    monitor.phase("policies for the budget")
    evaluator = session.evaluator().in_float32()
    reward = Objective(problem.objective, evaluator.original_costs)
    errors: list[str] = []

    def measure(levels: Levels) -> float | None:
        try:
            found = evaluator.evaluate(levels)
        except EvaluationError as error:
            errors.append(str(error))
            return None
        return reward(found.score, found.costs)

    original = reward(curves.original_score, evaluator.original_costs)
    records = [r for r in EvaluationStore(run.evaluations).read() if r.scored_in_full]
    known = Known.of(records, space)
    compared: list[Proposal] = []
    if stored is not None:
        levels = space.levels_of(stored)
        compared.append(Proposal("the best evaluated", levels, measure(levels)))
    for found in proposals(space, problem.costs, problem.budget, curves, known, original, measure):
        compared.append(found)
        monitor.step(len(compared), MOST + (stored is not None))
    scored = [one for one in compared if one.reward is not None]
    if not scored:
        raise EvaluationError(f"--run {run.path}: no policy for the budget: {errors[-1]}")
    taken = max(scored, key=lambda one: one.worth)
    best = {one.name: one.worth for one in sorted(scored, key=lambda one: one.worth)}
    said = ", ".join(f"{name} {best[name]:.4f}" for name in dict.fromkeys(o.name for o in scored))
    failed = f"; {len(errors)} cannot be scored ({errors[-1]})" if errors else ""
    monitor.say(f"reward on the search split: {said}{failed}; {taken.name} is taken")
    return space.policy_of(taken.levels)


def _best_policy(problem: Problem, run: RunDirectory) -> CompressionPolicy:
    """Return the best policy that a run has evaluated within the budget.

    Costs are those of today's preparation: a run may have measured latencies, predicted them from
    an older table, or done neither.
    """
    records = EvaluationStore(run.evaluations).read()
    best = best_distinct(list(filter(problem.may_win, records)), 1, run.ranking())
    if not best:
        raise ConfigError(
            f"--run {run.path}: none of its {len(records)} evaluations meets the budget "
            f"{problem.budget.as_dict()}; search with that budget"
        )
    return best[0].realised_policy()
