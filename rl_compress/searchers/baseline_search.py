"""The loop that runs a baseline in the driver until the run's evaluations are used up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rl_compress.errors import ConfigError, EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.ledger import Ledger, Progress
from rl_compress.registry import running
from rl_compress.searchers.convergence import Convergence
from rl_compress.searchers.searcher import Keep, Searcher
from rl_compress.space.mask_projection import decides_masks, project_mask
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels

_PATIENCE = 2000
"""Candidates in a row without a new variant, after which the space counts as exhausted."""

_STAYS = 0.5
"""In a space of masks, the smallest fraction kept that lets a unit stay."""

_KEY = "search.algorithm"

_FAILURES = 20
"""Variants that may fail, and then no more than succeed, before the search is given up."""


def run_baseline(
    baseline: Searcher,
    candidates: CandidateEvaluator,
    ledger: Ledger,
    advance: Callable[[Progress], None] = lambda _progress: None,
    convergence: Convergence | None = None,
) -> str | None:
    """Ask, project, evaluate, tell; a resumed run replays the stored part from the cache.

    Args:
        baseline: Proposes candidates.
        candidates: Measures them.
        ledger: Counts them.
        advance: Hears of progress after every candidate.
        convergence: Ends the search once it finds nothing better.

    Returns:
        Why the search ended early, or None when all evaluations were made.
    """
    unchanged, done, failure = 0, ledger.progress().done, ""
    while True:
        with running(baseline, _KEY):
            keep = baseline.ask()
        if keep is None:
            return "the baseline has no other candidate"
        levels = _realise(_checked(keep, baseline), baseline)
        try:
            record = candidates(levels)
        except EvaluationError as error:
            failure, reward = f" ({error})", float("-inf")
        else:
            if record is None:
                return None
            reward = record.reward
        # Learn from the realised decision: it is what the reward belongs to.
        with running(baseline, _KEY):
            baseline.tell(baseline.problem.space.kept(levels), reward)
        progress = ledger.progress()
        advance(progress)
        if progress.exhausted:
            return None
        if convergence is not None and (reason := convergence.reason(progress)):
            return reason
        unchanged = unchanged + 1 if progress.done == done else 0
        done = progress.done
        if progress.failures > max(_FAILURES, progress.done):
            return f"most variants cannot be evaluated{failure}"
        if unchanged > _PATIENCE:
            return f"no new variant in {_PATIENCE} candidates{failure}"


def _checked(keep: Keep, baseline: Searcher) -> Keep:
    """Refuse what is no candidate, as of a searcher of the user's own."""
    found = keep if isinstance(keep, np.ndarray) and keep.dtype.kind in "biuf" else np.empty(0)
    size = len(baseline.problem.space)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ConfigError(
            f"{_KEY}: ask() of {type(baseline).__name__} must return an array of {size} "
            f"fractions to keep, or None, but returned {str(keep)[:60]}"
        )
    return found


def _realise(keep: Keep, baseline: Searcher) -> Levels:
    problem = baseline.problem
    if decides_masks(problem.space):
        return project_mask(keep >= _STAYS, keep, problem.budget, problem.space, problem.costs)
    return project(keep, problem.budget, problem.space, problem.costs, fill=baseline.fill)
