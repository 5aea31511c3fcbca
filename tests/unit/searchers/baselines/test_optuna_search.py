from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np
import pytest

from rl_compress.errors import ConfigError
from rl_compress.searchers.baselines.optuna_search import OptunaSearch, Sampler
from rl_compress.space.search_space import GroupChoices, SearchSpace

SPACE = SearchSpace(
    (
        GroupChoices("conv", 16, tuple(range(2, 17))),
        GroupChoices("fixed", 4, (4,)),
        GroupChoices("conv", 8, (2, 3, 4, 5, 6, 8), "weight_bits"),
    )
)
AIM = np.array([0.3, 1.0, 0.8])


def _rewards(search: OptunaSearch, count: int) -> list[float]:
    rewards = []
    for _ in range(count):
        keep = search.ask()
        rewards.append(-float(((keep - AIM) ** 2).sum()))
        search.tell(keep, rewards[-1])
    return rewards


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_the_sampler_learns(name: Sampler) -> None:
    rewards = _rewards(OptunaSearch(name, SPACE, seed=0), 80)
    assert np.mean(rewards[-20:]) > 0.5 * np.mean(rewards[:20])
    assert max(rewards) > -0.01


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_failed_variants_are_no_obstacle(name: Sampler) -> None:
    search = OptunaSearch(name, SPACE, seed=0)
    for _ in range(12):
        search.tell(search.ask(), float("-inf"))
    assert max(_rewards(search, 40)) > -0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_the_sampler_is_silent(name: Sampler, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="optuna"):
        _rewards(OptunaSearch(name, SPACE, seed=0), 15)
    assert caplog.records == []


@pytest.mark.parametrize(("name", "missing"), [("tpe", "optuna"), ("cmaes", "cmaes")])
def test_a_missing_package_is_named(
    name: Sampler, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(package: str, *_args: Any) -> object | None:
        return None if package == missing else importlib.util.find_spec(package)

    monkeypatch.setattr("rl_compress.searchers.baselines.optuna_search.find_spec", find)
    expected = rf"search.algorithm: {name} needs Optuna; pip install 'rl-compress\[optuna\]'"
    with pytest.raises(ConfigError, match=expected):
        OptunaSearch(name, SPACE, seed=0)
