from __future__ import annotations

import pytest

from rl_compress.agent.config import SearchConfig
from rl_compress.comparison import Extras, check_baselines, compared, plan
from rl_compress.errors import ConfigError


def test_known_baselines_pass() -> None:
    check_baselines(compared())
    check_baselines([*compared(), "rl_compress.searchers.baselines.uniform:Uniform"])
    assert "contribution" not in compared()


@pytest.mark.parametrize("names", [["random", "contribution"], [""], ["ppo"]])
def test_an_unknown_baseline_is_named(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"--baselines: must be among .*{names[-1]!r}"):
        check_baselines(names)


def test_nothing_is_run_beside_unless_asked_for() -> None:
    assert plan(SearchConfig(), Extras()) == []


def test_the_search_is_repeated_with_the_further_seeds() -> None:
    assert plan(SearchConfig(algorithm="ppo", seed=5), Extras(0, ["random"], 2)) == [
        ("ppo", 6),
        ("random", 5),
        ("random", 6),
    ]


def test_what_has_no_chance_in_it_is_run_once() -> None:
    extras = Extras(baselines=["uniform", "greedy", "global"], seeds=2)
    chosen = plan(SearchConfig(algorithm="evolution"), extras)
    assert chosen == [
        ("evolution", 1),
        ("uniform", 0),
        ("greedy", 0),
        ("greedy", 1),
        ("global", 0),
    ]


def test_the_search_is_not_its_own_baseline() -> None:
    extras = Extras(baselines=["random", "uniform"])
    assert plan(SearchConfig(algorithm="random"), extras) == [("uniform", 0)]
