from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rl_compress.agent.config import SearchConfig
from rl_compress.comparison import check_baselines, compared, plan
from rl_compress.errors import ConfigError
from rl_compress.searching import SearchTask


def _task(**search: Any) -> SearchTask:
    return cast("SearchTask", SimpleNamespace(search=SearchConfig(**search)))


def test_known_baselines_pass() -> None:
    check_baselines(compared())
    check_baselines([*compared(), "rl_compress.searchers.baselines.uniform:Uniform"])
    assert "contribution" not in compared()


@pytest.mark.parametrize("names", [["random", "contribution"], [""], ["ppo"]])
def test_an_unknown_baseline_is_named(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"--baselines: must be among .*{names[-1]!r}"):
        check_baselines(names)


def test_nothing_is_run_beside_unless_asked_for() -> None:
    assert plan(_task(), [], 1) == []


def test_the_search_is_repeated_with_the_further_seeds() -> None:
    assert plan(_task(algorithm="ppo", seed=5), ["random"], 2) == [
        ("ppo", 6),
        ("random", 5),
        ("random", 6),
    ]


def test_what_has_no_chance_in_it_is_run_once() -> None:
    chosen = plan(_task(algorithm="evolution"), ["uniform", "greedy", "global"], 2)
    assert chosen == [
        ("evolution", 1),
        ("uniform", 0),
        ("greedy", 0),
        ("greedy", 1),
        ("global", 0),
    ]


def test_the_search_is_not_its_own_baseline() -> None:
    assert plan(_task(algorithm="random"), ["random", "uniform"], 1) == [("uniform", 0)]
