from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zoo
from problems import make_problem
from records import make_record

from rl_compress.agent.budget_handling import BudgetHandling
from rl_compress.agent.config import Episode, SearchConfig
from rl_compress.agent.env import CompressionEnv
from rl_compress.agent.task import Task
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor


class ToyEvaluate:
    """Scores levels by a formula and remembers what it was asked."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self.asked: list[tuple[Levels, str]] = []
        self._ids: dict[str, int] = {}

    def score(self, levels: Levels) -> float:
        removed = 1 - self.compressor.space.kept(levels)
        return -float((np.arange(1, len(levels) + 1) * removed**2).sum())

    def __call__(self, levels: Levels, candidate: str) -> EvaluationRecord | None:
        self.asked.append((levels.copy(), candidate))
        policy = self.compressor.space.policy_of(levels)
        return make_record(
            self._ids.setdefault(policy.policy_id, len(self._ids)),
            policy=candidate,
            policy_id=policy.policy_id,
            realised=policy.to_json(),
            **self.compressor.costs.costs(levels),
            score=self.score(levels),
        )


@pytest.fixture(scope="session")
def compressor() -> Compressor:
    return Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, SpaceConfig())


@pytest.fixture
def evaluate(compressor: Compressor) -> ToyEvaluate:
    return ToyEvaluate(compressor)


@pytest.fixture
def budget(compressor: Compressor) -> Budget:
    return Budget.parse({"macs": 0.4}, compressor.costs.costs(compressor.space.full))


@pytest.fixture
def curves(compressor: Compressor, evaluate: ToyEvaluate) -> SensitivityCurves:
    return measure_sensitivity(compressor.space, evaluate.score, 8)


MakeTask = Callable[..., Task]
MakeEnv = Callable[..., CompressionEnv]


@pytest.fixture
def make_task(
    compressor: Compressor, budget: Budget, curves: SensitivityCurves, evaluate: ToyEvaluate
) -> MakeTask:
    def make(
        *,
        prior: bool = True,
        episode: Episode = "layerwise",
        budget_handling: BudgetHandling = "projection",
    ) -> Task:
        space = compressor.space
        levels = greedy_levels(curves, budget, space, compressor.costs) if prior else None
        reference = space.smallest if levels is None else levels
        return Task(
            problem=make_problem(compressor, budget, curves=curves if prior else None),
            settings=SearchConfig(
                episode=episode,
                residual_scale=0.2,
                budget_handling=budget_handling,
                screening=False,
            ),
            reward=lambda score, _costs: score,
            prior=levels,
            reference_reward=evaluate.score(reference),
            original_reward=0.0,
        )

    return make


@pytest.fixture
def make_env(make_task: MakeTask, evaluate: ToyEvaluate) -> MakeEnv:
    def make(**options: Any) -> CompressionEnv:
        return CompressionEnv(make_task(**options), evaluate)

    return make
