from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rl_compress.searchers.objective import Objective, ObjectiveConfig

ORIGINAL = {"macs": 1000, "params": 200, "size_bytes": 800}
COSTS = {"macs": 250, "params": 100, "size_bytes": 800}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param({}, -0.5, id="score-alone"),
        pytest.param({"score": 3.0}, -1.5, id="score-weight"),
        pytest.param({"macs": 2.0}, -0.5 + 2 * 0.75, id="saved-macs"),
        pytest.param({"score": 0.0, "params": 1.0}, 0.5, id="cost-alone"),
        pytest.param({"size_bytes": 5.0}, -0.5, id="nothing-saved"),
        pytest.param({"macs": -1.0, "params": 1.0}, -0.5 - 0.75 + 0.5, id="several"),
    ],
)
def test_reward(weights: dict[str, float], expected: float) -> None:
    objective = Objective(ObjectiveConfig(weights=weights), ORIGINAL)
    assert objective(-0.5, COSTS) == pytest.approx(expected)


@given(st.floats(-10, 10))
def test_the_uncompressed_targets_reward_is_its_weighted_score(score: float) -> None:
    objective = Objective(ObjectiveConfig(weights={"macs": 3.0, "params": 2.0}), ORIGINAL)
    assert objective(score, ORIGINAL) == pytest.approx(score)


def test_unknown_terms_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"unknown term.*\['flops'\].*macs, params"):
        ObjectiveConfig(weights={"flops": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"macs": float("nan")}}, "finite"),
        ({"pareto": ["score"]}, "at least 2"),
        ({"pareto": ["score", "macs", "params", "bops"]}, "at most 3"),
        ({"pareto": ["score", "flops"]}, r"unknown term.*\['flops'\]"),
        ({"pareto": ["macs", "macs"]}, "named twice"),
    ],
)
def test_what_cannot_be_an_objective_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig(**changes)


def test_latency_is_measured_only_where_it_counts() -> None:
    assert not ObjectiveConfig().needs_latency
    assert ObjectiveConfig(weights={"latency_ms": 0.5}).needs_latency
    assert ObjectiveConfig(pareto=["score", "latency_ms"]).needs_latency


def test_the_front_is_over_score_and_budgeted_costs_unless_the_job_says_otherwise() -> None:
    assert ObjectiveConfig().objectives(["macs", "bops"]) == ["score", "macs", "bops"]
    assert ObjectiveConfig(pareto=["params", "bops"]).objectives(["macs"]) == ["params", "bops"]


def test_latency_is_weighted_like_any_cost() -> None:
    objective = Objective(
        ObjectiveConfig(weights={"latency_ms": 2.0}), {**ORIGINAL, "latency_ms": 4.0}
    )
    assert objective(-0.5, {**COSTS, "latency_ms": 1.0}) == pytest.approx(-0.5 + 2 * 0.75)
