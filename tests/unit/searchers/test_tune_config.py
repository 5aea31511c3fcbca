from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rl_compress.errors import ConfigError
from rl_compress.searchers.tune_config import Domain, TuneConfig


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({}, "exactly one of grid, choice"),
        ({"grid": [1], "choice": [2]}, "exactly one of"),
        ({"grid": []}, "grid"),
        ({"uniform": [1.0, 0.0]}, "the second above the first"),
        ({"uniform": [0.0, float("nan")]}, "finite"),
        ({"loguniform": [0.0, 1.0]}, "above 0"),
        ({"normal": [0, 1]}, "normal"),
    ],
)
def test_bad_domains_are_refused(domain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Domain.model_validate(domain)


def test_examples_are_what_any_trial_could_get() -> None:
    assert Domain(grid=[1, "a"]).examples() == [1, "a"]
    assert Domain(uniform=(0.5, 2.0)).examples() == [0.5, 2.0]
    assert Domain(randint=(1, 9)).examples() == [1, 8]


def test_trials_are_counted_from_one() -> None:
    with pytest.raises(ValidationError, match="trials"):
        TuneConfig(trials=0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sampler": "tpe", "space": {"a": {"grid": [1]}}}, r"tune\.space\.a: a grid.*choice"),
        ({"sampler": "nsga2", "scheduler": "asha"}, r"tune\.scheduler: asha compares one figure"),
        ({"sampler": "tpe", "scheduler": "pbt"}, r"tune\.sampler: tpe leaves pbt nothing"),
        ({"scheduler": "pbt", "space": {"a": {"grid": [1]}}}, r"tune\.space\.a: a grid.*choice"),
    ],
)
def test_parts_that_cannot_work_together_are_refused(section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuneConfig.model_validate(section)
