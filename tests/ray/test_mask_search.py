"""PPO with every network, in every kind of episode; masks; and searches that converge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from masks import make_compressor
from problems import make_problem
from records import make_record
from running import make_job, prepared, read_records, searched

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.mask_env import MaskEnv
from rl_compress.agent.task import Task
from rl_compress.errors import ConfigError
from rl_compress.evaluation.ledger import Progress
from rl_compress.job import parse_job
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.mask_prior import first_odds
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels

pytestmark = pytest.mark.usefixtures("ray_session")

WEIGHTS = [4.0, 3.0, -2.0, -5.0, *np.linspace(-0.2, 0.2, 20).tolist()]
VALUES = np.array([0.3, 0.2, 0.1, 0.4] + [-0.01] * 20)
BOUND = 16

_PPO = {"search__algorithm": "ppo", "search__num_env_runners": 1}


def _search(folder: Path, **changes: Any) -> tuple[Progress, str | None]:
    return searched(folder, **{**_PPO, **changes})


@pytest.mark.parametrize(
    ("network", "episode", "gamma"), [("article", "whole", 1.0), ("rllib", "layerwise", 0.9)]
)
def test_every_network_decides_ratios(
    tmp_path: Path, network: str, episode: str, gamma: float
) -> None:
    progress, reason = _search(
        tmp_path,
        search__network=network,
        search__episode=episode,
        search__gamma=gamma,
        search__ppo={"episodes_per_update": 4, "num_epochs": 2},
    )

    assert reason is None
    assert progress.done == len(read_records(tmp_path)) == 12


class _Evaluate:
    """Scores masks by the sum of their units' values."""

    def __init__(self, limit: int) -> None:
        self.masks: list[Levels] = []
        self._limit = limit
        self._ids: dict[bytes, int] = {}

    @property
    def done(self) -> int:
        return len(self._ids)

    def __call__(self, levels: Levels, _candidate: str) -> EvaluationRecord | None:
        if levels.tobytes() not in self._ids and self.done == self._limit:
            return None
        self.masks.append(levels)
        number = self._ids.setdefault(levels.tobytes(), self.done)
        return make_record(number, score=float(VALUES @ levels))


def _algorithm(evaluate: _Evaluate, search: dict[str, Any], bound: int = BOUND) -> Any:
    """Build the algorithm of a search for masks, with its env in this process."""
    from rl_compress.agent.rllib.algorithms import make_config

    config = SearchConfig.model_validate({"num_env_runners": 1, **search})
    problem = make_problem(make_compressor(WEIGHTS), Budget((("params", bound),)))
    task = Task(
        problem=problem,
        settings=config,
        reward=lambda score, _costs: score,
        prior=None,
        reference_reward=float(VALUES.sum()) - 0.1,
        original_reward=float(VALUES.sum()),
    )
    odds = first_odds(None, problem.budget, problem.space, problem.costs, config.mask.steps)

    class Env(MaskEnv):
        def __init__(self, _config: Any) -> None:
            super().__init__(task, evaluate, config.mask.steps)

    made = make_config(config, "nobody", config.mask.steps, odds.tolist())
    return (
        made.environment(Env, env_config={})
        .env_runners(num_env_runners=0, create_local_env_runner=True)
        .build_algo()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", ["prior", "article", "rllib"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_network_decides_masks(network: str, steps: int) -> None:
    evaluate = _Evaluate(limit=1000)
    algorithm = _algorithm(
        evaluate, {"network": network, "mask": {"steps": steps}, "ppo": {"num_epochs": 3}}
    )
    before = algorithm.get_module().get_state()
    for _ in range(2):
        algorithm.train()
    after = algorithm.get_module().get_state()
    algorithm.stop()

    # Ten evaluations an update, rounded up to whole episodes.
    assert len(evaluate.masks) == 2 * {1: 10, 3: 12}[steps]
    assert all(mask.sum() <= BOUND for mask in evaluate.masks)
    assert any((before[name] != after[name]).any() for name in before)


@pytest.mark.filterwarnings("ignore")
def test_without_learning_masks_are_drawn_and_no_weight_moves() -> None:
    evaluate = _Evaluate(limit=1000)
    algorithm = _algorithm(evaluate, {"learning": False})
    before = algorithm.get_module().get_state()
    for _ in range(2):
        algorithm.train()
    after = algorithm.get_module().get_state()
    algorithm.stop()

    assert len({mask.tobytes() for mask in evaluate.masks}) > 1
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize("algorithm", ["ppo", "appo", "sac", "tqc"])
def test_without_learning_all_rates_are_zero(algorithm: str) -> None:
    from rl_compress.agent.rllib.algorithms import make_config

    made = [
        make_config(SearchConfig(algorithm=algorithm, learning=learning), "nobody", 1)
        for learning in (True, False)
    ]
    names = ("actor_lr", "critic_lr", "alpha_lr") if algorithm in ("sac", "tqc") else ("lr",)
    for name in names:
        assert getattr(made[0], name) > 0
        assert getattr(made[1], name) == 0


@pytest.mark.filterwarnings("ignore")
def test_the_agent_finds_the_units_that_matter() -> None:
    """By default, and without any prior."""
    evaluate = _Evaluate(limit=300)
    algorithm = _algorithm(evaluate, {}, bound=len(VALUES))
    while evaluate.done < 300:
        algorithm.train()
    algorithm.stop()

    best = max(evaluate.masks, key=lambda mask: float(VALUES @ mask))
    assert best.tolist() == (VALUES > 0).astype(int).tolist()


def test_masks_are_searched_from_the_job_to_the_records(tmp_path: Path) -> None:
    """On the tiny target, whose channels are the units; and a resumed run measures nothing anew."""
    changes = {
        "space": {"action": "mask"},
        "search__evaluations": 16,
        "search__prior": "none",
        "search__num_env_runners": 2,
    }
    progress, reason = _search(tmp_path, **changes)

    assert reason is None
    assert progress.done == 16
    records = read_records(tmp_path)
    problem = prepared(tmp_path, space={"action": "mask"}).problem
    assert {record.worker for record in records} >= {0, 1}
    for record in records:
        levels = problem.space.levels_of(record.realised_policy())
        assert set(levels) == {0, 1}
        assert problem.budget.admits(problem.costs.costs(levels))

    _search(tmp_path, **changes)
    assert read_records(tmp_path) == records


def test_workers_of_a_mask_search_are_told_names_and_numbers_only() -> None:
    from rl_compress.agent.rllib.algorithms import make_config
    from rl_compress.agent.rllib.worker_env import MaskWorkerEnv

    config = make_config(SearchConfig(), "coordinator-x", 2, [0.5, 0.5])
    assert config.env_config == {"coordinator": "coordinator-x", "steps": 2}
    assert config.env is MaskWorkerEnv
    assert issubclass(MaskWorkerEnv, gym.Env)


def test_sac_cannot_decide_masks() -> None:
    from rl_compress.agent.rllib.algorithms import make_config

    with pytest.raises(ConfigError, match=r"^search\.algorithm: sac .*choose ppo"):
        make_config(SearchConfig(algorithm="sac"), "coordinator-x", 1, [0.5])


def test_sac_has_no_choice_of_networks() -> None:
    job = make_job(search__algorithm="sac", search__network="article")
    with pytest.raises(ConfigError, match=r"search\.network: only ppo .* but got 'article'$"):
        parse_job(job)


def test_a_search_ends_when_it_has_converged_and_stays_so(tmp_path: Path) -> None:
    changes = {"search__evaluations": 500, "search__convergence": 4}
    progress, reason = _search(tmp_path, **changes)

    assert reason == "converged: no better policy in 4 evaluations"
    assert progress.done < 500
    records = read_records(tmp_path)
    best = max(records, key=lambda record: (record.reward, -record.evaluation_id))
    assert len(records) - 1 - records.index(best) >= 4

    again, reason = _search(tmp_path, **changes)
    assert reason == "converged: no better policy in 4 evaluations"
    assert again.done == progress.done
