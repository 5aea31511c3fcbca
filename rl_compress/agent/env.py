"""The compression environment: one decision after the other, the episode's end is evaluated.

Action space
    ``Box(-1, 1)``, one number for each dimension decided in the step. With a prior it moves the
    fraction kept by up to ``residual_scale`` from the prior's, or from that of the best variant so
    far where proposals are screened (:mod:`rl_compress.searchers.screening`); without one, it is
    mapped to the kept fraction itself, or to bits. Dimensions that have no choice are not asked
    for. How decisions meet the budget is told in :mod:`rl_compress.agent.budget_handling`.
Observation space
    ``Box``, as :mod:`rl_compress.agent.observation` tabulates. With ``episode: whole`` it is the
    one before the first decision. After the last decision it is zero: no learner looks at it.
Rewards
    Zero until the episode ends; then the variant's reward relative to the prior's, in units of the
    reward that the prior loses against the uncompressed target, clipped to ``[-3, 3]``. Zero means
    "as good as the prior", one "as good as the uncompressed target". With several budgets each
    episode is played for one of them, relative to its own prior
    (:mod:`rl_compress.searchers.goals`).
Episode end
    After the last dimension (``episode: layerwise``) or the only step (``episode: whole``). The
    last ``info`` holds ``evaluation_id`` and ``reward``, or ``exhausted`` when the run's number of
    evaluations was reached, or ``error`` when the variant could not be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rl_compress.agent.budget_handling import bring_within, clip, plain_keep
from rl_compress.agent.observation import Observer
from rl_compress.agent.task import Task
from rl_compress.errors import EvaluationError, SearchStalledError
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.goals import pick
from rl_compress.searchers.known import Known, Records
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels

Evaluate = Callable[[Levels, str], EvaluationRecord | None]

_REWARD_BOUND = 3.0

_NEARBY_TRIES = 12
_FIRST_NOISE = 0.02
_NOISE_GROWTH = 1.4
"""A repeated candidate is moved by relative noise that grows until it is a new one."""


class CompressionEnv(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """One episode is one candidate."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, task: Task, evaluate: Evaluate, records: Records = Known) -> None:
        """Make the spaces.

        Args:
            task: What is to be compressed, and how episodes are played.
            evaluate: ``(levels, candidate JSON) -> record``, None when evaluations are used up.
            records: Returns what was measured so far, to learn from.
        """
        self._records = records
        self._screening = task.screening()
        problem = task.problem
        self._task = task
        self._evaluate = evaluate
        self._space = problem.space
        self._smallest = self._space.kept(self._space.smallest)
        self._costs = problem.costs
        self._observer = Observer(
            problem.compressor,
            problem.budget,
            task.prior,
            problem.curves,
            task.reward_scale(),
        )
        self._goal = task.goal
        decisions = self._space.num_decisions if task.settings.episode == "whole" else 1
        bound = self._observer.bound
        self.observation_space = gym.spaces.Box(
            -bound, bound, (self._observer.size,), dtype=np.float32
        )
        self._nothing_left = np.zeros(self._observer.size, dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (decisions,), dtype=np.float32)
        self._dimension = self._next_open(0)
        self._keep = np.ones(len(self._space))
        self._levels = self._space.full
        self.proposed: set[bytes] = set()
        """Levels that this env proposed, where it does not learn of those of all."""
        self._centre, self._known = np.ones(len(self._space)), Known()
        self._own: list[tuple[Levels, float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin a candidate; nothing is decided."""
        super().reset(seed=seed)
        if seed is not None:
            self.proposed = set()
            self._own.clear()
        if self._task.goals:
            self._goal = pick(self._task.goals, self.np_random)
            self._observer.face(self._goal.budget, self._goal.prior)
        self._dimension = self._next_open(0)
        self._keep = np.ones(len(self._space))
        self._levels = self._space.full
        return self._observer.observe(self._dimension, self._levels), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide the next dimension, or all.

        Raises:
            SearchStalledError: The agent has diverged.
        """
        if not np.isfinite(action).all():
            raise SearchStalledError(
                "search: the agent diverged, its actions are no numbers any more; lower the "
                "learning_rate of its algorithm; what was evaluated is stored"
            )
        for value in np.asarray(action, dtype=np.float64):
            self._decide(float(np.clip(value, -1.0, 1.0)))
        done = self._dimension == len(self._space)
        if not done:
            return self._observer.observe(self._dimension, self._levels), 0.0, False, False, {}
        reward, info = self._finish()
        return self._nothing_left, reward, True, False, info

    def _next_open(self, start: int) -> int:
        """Return the first dimension from ``start`` on that has a choice, else their number."""
        dimensions = self._space.dimensions
        open_ones = (i for i in range(start, len(dimensions)) if dimensions[i].is_open)
        return next(open_ones, len(dimensions))

    def _decide(self, value: float) -> None:
        index, dimension = self._dimension, self._space.dimensions[self._dimension]
        prior, settings = self._goal.prior, self._task.settings
        if prior is not None:
            if index == self._next_open(0):
                self._centre = self._space.kept(self._best_known(prior))
            keep = self._centre[index] + settings.residual_scale * value
        else:
            keep = plain_keep(value, dimension)
        self._keep[index] = min(max(keep, self._smallest[index]), 1.0)
        self._levels[index] = dimension.nearest(float(self._keep[index] * dimension.full))
        if settings.handling == "clip":
            self._levels[index] = clip(
                self._levels, index, self._goal.budget, self._space, self._costs
            )
            self._keep[index] = dimension.amounts[self._levels[index]] / dimension.full
        self._dimension = self._next_open(index + 1)

    def _best_known(self, prior: Levels) -> Levels:
        """Return the levels that the actions are relative to."""
        if self._screening is None:
            return prior
        # What others measured is told between updates, what this env did is known at once.
        self._known = self._records()
        self._own = [(levels, reward) for levels, reward in self._own if levels not in self._known]
        for levels, reward in self._own:
            self._known.add(levels[None], np.array([reward]))
        best, _ = self._known.best(self._goal.budget, self._costs, 1)
        return best[0] if len(best) else prior

    def _new_levels(self) -> Levels:
        """Return the decisions' levels on the budget, or near them if this env had them before.

        A converged agent proposes the same variants again and again; a variant nearby tells it
        more than the one it knows, and the run its number of evaluations.
        """
        keep, noise, budget = self._keep, _FIRST_NOISE, self._goal.budget
        if self._screening is not None:
            proposal = project(keep, budget, self._space, self._costs)
            return self._screening.improve(proposal, budget, self._known, self.np_random)
        for _ in range(_NEARBY_TRIES):
            levels = bring_within(
                self._task.settings.handling,
                keep,
                budget,
                self._space,
                self._costs,
                fill=self._goal.prior is not None,
            )
            if levels.tobytes() not in self.proposed:
                break
            keep = self._keep * np.exp(self.np_random.normal(0.0, noise, len(self._keep)))
            noise *= _NOISE_GROWTH
        self.proposed.add(levels.tobytes())
        return levels

    def _finish(self) -> tuple[float, dict[str, Any]]:
        """Evaluate the candidate that the decisions make up."""
        self._levels = levels = self._new_levels()
        candidate = self._space.policy_asked_for(self._keep, levels)
        try:
            record = self._evaluate(levels, candidate.to_json())
        except EvaluationError as error:
            return -_REWARD_BOUND, {"error": str(error)}
        if record is None:
            return 0.0, {"exhausted": True}
        if self._screening is not None:
            self._own.append((levels, record.reward))
        advantage = record.reward - self._goal.reference_reward
        advantage /= self._task.reward_scale(self._goal)
        reward = float(np.clip(advantage, -_REWARD_BOUND, _REWARD_BOUND))
        return reward, {"evaluation_id": record.evaluation_id, "reward": record.reward}
