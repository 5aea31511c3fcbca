"""The `search` section: what goes together."""

from __future__ import annotations

from typing import Any

import pytest

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import ConfigError
from rl_compress.job import parse_job


@pytest.mark.parametrize(
    ("settings", "handling"),
    [
        ({}, "projection"),
        ({"prior": "none"}, "clip"),
        ({"prior": "none", "budget_handling": "projection"}, "projection"),
        ({"budget_handling": "decrement"}, "decrement"),
    ],
)
def test_decisions_are_projected_with_a_prior_and_clipped_without_one(
    settings: dict[str, Any], handling: str
) -> None:
    assert SearchConfig.model_validate(settings).handling == handling


def _job(**search: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "target": {"factory": "digits"},
        "space": {"action": "mask"},
        "budget": {"macs": 0.5},
        "search": search,
    }


@pytest.mark.parametrize("algorithm", ["appo", "sac", "tqc"])
def test_only_ppo_decides_masks(algorithm: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.algorithm: {algorithm} .*choose ppo"):
        parse_job(_job(algorithm=algorithm))


@pytest.mark.parametrize("handling", ["clip", "decrement"])
def test_masks_are_projected_only(handling: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.budget_handling: .*{handling}; leave it out"):
        parse_job(_job(budget_handling=handling))


@pytest.mark.parametrize("algorithm", ["appo", "sac", "tqc"])
def test_only_ppo_has_a_choice_of_networks(algorithm: str) -> None:
    with pytest.raises(ValueError, match=f"leave it out with {algorithm}"):
        SearchConfig.model_validate({"algorithm": algorithm, "network": "article"})


def test_some_quantiles_are_left_in_the_target() -> None:
    with pytest.raises(ValueError, match="must be below num_quantiles"):
        SearchConfig.model_validate({"tqc": {"num_quantiles": 5, "dropped_quantiles": 5}})
