"""The mask environment: the agent decides for every single unit whether it stays.

This is the article's decision process: the state is the distribution of the current parameters,
the action a binary mask, the reward the weighted change of score and costs.

Action space
    ``MultiDiscrete([2] * n)``: 1 for each unit of the CURRENT variant that stays; what an earlier
    step removed stays removed. With one step an episode this is the mask itself.
Observation space
    ``Box``, as :mod:`rl_compress.agent.mask_observation` tabulates. The first state of an episode
    is the uncompressed target: from the prior's variant the agent could not take anything back.
    The prior is where the agent's network starts instead.
Rewards
    ``r_t = v_t - v_(t-1)``, where ``v = (J - J_original) / unit`` and ``J`` is the job's objective,
    so that ``r_t`` is the weighted change of score and costs and an undiscounted episode adds up to
    ``v`` of its last variant. Losses beyond one unit count by their logarithm
    (``v <- -1 - log(-v)`` for ``v < -1``): a mask that ruins the network must not drown the
    differences between good ones. The unit is what the reference loses, but at least
    :data:`_SMALLEST_UNIT`.
Episode end
    After ``steps`` steps, or when nothing is left that could be removed. The last ``info`` is that
    of :class:`~rl_compress.agent.env.CompressionEnv`; every other step has ``evaluation_id`` and
    ``reward`` too, since each is an evaluation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rl_compress.agent.env import Evaluate
from rl_compress.agent.mask_observation import MaskObserver
from rl_compress.agent.task import Task
from rl_compress.errors import EvaluationError
from rl_compress.space.mask_projection import project_mask
from rl_compress.space.search_space import Levels

_SMALLEST_UNIT = 0.05
"""Least loss of reward that counts as 1: five points of accuracy."""

_FAILURE = -3.0
"""Reward of a variant that cannot be evaluated."""

_NEARBY_TRIES = 12
_FLIPS_GROWTH = 1.4
"""A repeated mask has single units flipped, ever more of them until it is a new one."""


class MaskEnv(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.int64]]):
    """One episode narrows the network down in a few steps, each of them evaluated."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, task: Task, evaluate: Evaluate, steps: int) -> None:
        """Make the spaces.

        Args:
            task: What is to be compressed; its space is one of masks.
            evaluate: ``(mask, candidate JSON) -> record``, None when evaluations are used up.
            steps: Steps of an episode, at least 1.
        """
        problem = task.problem
        self._task = task
        self._evaluate = evaluate
        self._steps = steps
        compressor = problem.compressor
        self._space = compressor.space
        self._costs = compressor.costs
        lost = abs(task.original_reward - task.reference_reward)
        self._unit = max(lost, _SMALLEST_UNIT)
        importance = np.concatenate(compressor.importances)
        self._observer = MaskObserver(
            compressor,
            self._space,
            problem.budget,
            self._costs,
            importance,
            problem.curves,
            self._unit,
        )
        # What goes first where a mask is over the budget.
        self._keep = importance
        if problem.curves is not None:
            scores = np.array([scores[-1] for scores in problem.curves.scores])
            self._keep = problem.curves.original_score - scores
        bound = self._observer.bound
        self.observation_space = gym.spaces.Box(
            -bound, bound, (self._observer.size,), dtype=np.float32
        )
        self.action_space = gym.spaces.MultiDiscrete([2] * len(self._space))
        self._step = 0
        self._mask = self._space.full
        self._value = 0.0
        self.proposed: set[bytes] = set()
        """First masks that this env proposed."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin with the uncompressed target."""
        super().reset(seed=seed)
        if seed is not None:
            self.proposed = set()
        self._step = 0
        self._mask = self._space.full
        self._value = 0.0
        return self._observe(), {}

    def step(
        self, action: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Remove units from the current variant, and measure what is left."""
        wanted: Levels = self._mask * (np.asarray(action) > 0)
        self._mask = self._new_mask(wanted)
        self._step += 1
        before = self._value
        info: dict[str, Any]
        try:
            record = self._evaluate(self._mask, self._space.policy_of(wanted).to_json())
        except EvaluationError as error:
            return self._observe(), _FAILURE, True, False, {"error": str(error)}
        if record is None:
            return self._observe(), 0.0, True, False, {"exhausted": True}
        self._value = compressed((record.reward - self._task.original_reward) / self._unit)
        info = {"evaluation_id": record.evaluation_id, "reward": record.reward}
        done = self._step == self._steps or (self._mask == self._space.smallest).all()
        return self._observe(), self._value - before, bool(done), False, info

    def _observe(self) -> npt.NDArray[np.float32]:
        return self._observer.observe(self._mask, self._value, self._step / self._steps)

    def _new_mask(self, wanted: Levels) -> Levels:
        """Return the mask on the budget, or in the first step one nearby if this env had it before.

        A converged agent proposes the same mask again and again; one nearby tells it more. Later
        steps may leave a variant as it is.
        """
        mask, flips = self._on_budget(wanted), 1.0
        if self._step == 0:
            for _ in range(_NEARBY_TRIES):
                if mask.tobytes() not in self.proposed:
                    break
                near = wanted.copy()
                units = self.np_random.integers(len(near), size=math.ceil(flips))
                near[units] = 1 - near[units]
                mask = self._on_budget(near)
                flips *= _FLIPS_GROWTH
        self.proposed.add(mask.tobytes())
        return mask

    def _on_budget(self, mask: Levels) -> Levels:
        return project_mask(mask, self._keep, self._task.problem.budget, self._space, self._costs)


def compressed(value: float) -> float:
    """Return a value, but minus one minus its logarithm where it is below minus one.

    Continuous with its first derivative, and increasing, so that it changes no order.
    """
    return value if value >= -1.0 else -1.0 - math.log(-value)
