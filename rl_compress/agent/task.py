"""The agent's task: a problem with what its episodes start from and are measured by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import EvaluationError
from rl_compress.evaluation.candidates import CandidateEvaluator, Reward
from rl_compress.evaluation.shared import Sharing
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.active_set import BOUND
from rl_compress.searchers.goals import Goal, drawn_budgets, reference_rewards, shares
from rl_compress.searchers.mask_prior import mask_prior
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.screening import Screening
from rl_compress.space.budget import Budget
from rl_compress.space.mask_projection import decides_masks
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels

_SMALLEST_SCALE = 0.1
"""Unit of rewards, at least, as a share of how far the uniform variant's is from the prior's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an env runner is sent, and its env is made of; plain data beside the compressor."""

    problem: Problem
    """Its compressor is without weights on the way."""
    settings: SearchConfig
    reward: Reward
    """``(score, costs) -> reward`` of the objective."""
    prior: Levels | None
    """The prior, shape ``(D,)``; None for plain actions."""
    reference_reward: float
    """Reward of the prior's variant, or of the uniform one without a prior."""
    original_reward: float
    """Reward of the uncompressed target."""
    smallest_scale: float = 1e-6
    """Rewards are in units of no less; a prior may be as good as the uncompressed target."""
    goals: tuple[Goal, ...] = ()
    """What episodes are played for, where it is not the one budget alone."""
    learned_from: int = BOUND
    """Records up to which the reward predictor learns from all, and from some of them then."""
    sharing: Sharing | None = None
    """Where measurements of other trials are; None outside a sweep."""
    weights: Path = Path()
    """File that workers map the weights from."""
    factory: Callable[..., Any] | None = None
    """The target's factory, where no worker can import it."""

    def screening(self) -> Screening | None:
        """Return what improves proposals by a reward predictor; None where nothing does."""
        problem = self.problem
        if not self.screens or problem.curves is None:
            return None
        return Screening(
            problem.space,
            problem.costs,
            problem.curves,
            self.original_reward,
            bound=self.learned_from,
        )

    @property
    def screens(self) -> bool:
        """Say whether a reward predictor improves proposals, and the agent starts from the best."""
        return self.settings.screens and not decides_masks(self.problem.space)

    @property
    def goal(self) -> Goal:
        """Return the job's own budget with its prior and reference."""
        return Goal(self.problem.budget, self.prior, self.reference_reward)

    def reward_scale(self, goal: Goal | None = None) -> float:
        """Return what a goal's reference loses against the uncompressed target."""
        return max(self.original_reward - (goal or self.goal).reference_reward, self.smallest_scale)


def set_up(problem: Problem, settings: SearchConfig, candidates: CandidateEvaluator) -> Task:
    """Return the agent's task, whose reference is the first variant of the run.

    Args:
        problem: What is searched, with curves where there is to be a prior.
        settings: The job's search section.
        candidates: Measures the references.

    Raises:
        EvaluationError: No reference can be evaluated.
    """
    space, curves = problem.space, problem.curves
    uniform, masks = problem.uniform(), decides_masks(problem.space)
    prior: Levels | None = None
    if curves is not None and masks:
        prior = mask_prior(curves, problem.budget, space, problem.costs, candidates.reward)
    elif curves is not None:
        prior = greedy_levels(curves, problem.budget, space, problem.costs)
    references = [uniform, space.smallest]
    record = _first(candidates, references if prior is None else [prior, *references])
    spread = 0.0
    if settings.screens and not masks:
        # Far from the prior, it tells the reward predictor how much rewards can differ.
        with contextlib.suppress(EvaluationError):
            if (far := candidates(uniform)) is not None:
                spread = abs(record.reward - far.reward)
    evaluator = candidates.evaluator
    score = evaluator.evaluate(space.full).score if curves is None else curves.original_score
    original = candidates.reward(score, evaluator.original_costs)
    own = Goal(problem.budget, prior, record.reward)
    return Task(
        problem=problem,
        settings=settings,
        reward=candidates.reward,
        prior=prior,
        reference_reward=record.reward,
        original_reward=original,
        smallest_scale=max(_SMALLEST_SCALE * spread, 1e-6),
        goals=_goals(own, problem, candidates, original),
    )


def _goals(
    own: Goal, problem: Problem, candidates: CandidateEvaluator, original: float
) -> tuple[Goal, ...]:
    """Return what episodes are played for; nothing where there is one budget only."""
    space, costs, curves = problem.space, problem.costs, problem.curves
    if not problem.others:
        return ()

    def recommended(budget: Budget) -> Levels:
        if curves is None:
            return project(np.full(len(space), 0.5), budget, space, costs)
        return greedy_levels(curves, budget, space, costs)

    drawn = drawn_budgets([own.budget, *problem.others])
    levels = [recommended(one.budget) for one in drawn]
    measured = [own.reference_reward] + [
        _first(candidates, [found, space.smallest]).reward
        for found in levels[1 : 1 + len(problem.others)]
    ]
    rewards = reference_rewards(drawn, measured, original)
    dealt = shares(drawn, [original - reward for reward in rewards])
    return tuple(
        Goal(one.budget, None if curves is None else found, reference, share)
        for one, found, reference, share in zip(drawn, levels, rewards, dealt, strict=True)
    )


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
