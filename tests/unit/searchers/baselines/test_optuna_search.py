from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np
import pytest
from problems import toy_problem

from rl_compress.errors import ConfigError
from rl_compress.searchers.baselines.optuna_search import CMAES, TPE, OptunaSearch
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Dimension, SearchSpace

SPACE = SearchSpace(
    (
        Dimension("conv", "channels", tuple(range(2, 17))),
        Dimension("fixed", "channels", (4,)),
        Dimension("conv", "weight_bits", (2, 3, 4, 5, 6, 8)),
    )
)
PROBLEM = toy_problem(SPACE, Budget(()), None)
AIM = np.array([0.3, 1.0, 0.8])


def _rewards(search: OptunaSearch, count: int) -> list[float]:
    rewards = []
    for _ in range(count):
        keep = search.ask()
        rewards.append(-float(((keep - AIM) ** 2).sum()))
        search.tell(keep, rewards[-1])
    return rewards


@pytest.mark.parametrize("sampler", [TPE, CMAES])
def test_the_sampler_learns(sampler: type[OptunaSearch]) -> None:
    rewards = _rewards(sampler(PROBLEM), 80)
    assert np.mean(rewards[-20:]) > 0.5 * np.mean(rewards[:20])
    assert max(rewards) > -0.01


@pytest.mark.parametrize("sampler", [TPE, CMAES])
def test_failed_variants_are_no_obstacle(sampler: type[OptunaSearch]) -> None:
    search = sampler(PROBLEM)
    for _ in range(12):
        search.tell(search.ask(), float("-inf"))
    assert max(_rewards(search, 40)) > -0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sampler", [TPE, CMAES])
def test_the_sampler_is_silent(
    sampler: type[OptunaSearch], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="optuna"):
        _rewards(sampler(PROBLEM), 15)
    assert caplog.records == []


@pytest.mark.parametrize(("sampler", "missing"), [(TPE, "optuna"), (CMAES, "cmaes")])
def test_a_missing_package_is_named(
    sampler: type[OptunaSearch], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(package: str, *_args: Any) -> object | None:
        return None if package == missing else importlib.util.find_spec(package)

    monkeypatch.setattr("rl_compress.searchers.baselines.optuna_search.find_spec", find)
    name = sampler.__name__.lower()
    expected = rf"search.algorithm: {name} needs Optuna; pip install 'rl-compress\[optuna\]'"
    with pytest.raises(ConfigError, match=expected):
        sampler(PROBLEM)
