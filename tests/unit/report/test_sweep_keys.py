from __future__ import annotations

import numpy as np
import pytest

from rl_compress.report.sweep_keys import FEWEST_TRIALS, column, importances


def test_numbers_far_apart_are_on_a_logarithmic_axis() -> None:
    rates = column([{"lr": rate} for rate in (1e-4, 1e-3, 1e-2)], "lr")
    assert rates.logarithmic
    assert rates.positions == pytest.approx([-4.0, -3.0, -2.0])
    assert not column([{"lr": rate} for rate in (0.0, 1.0)], "lr").logarithmic


def test_words_and_switches_are_numbered() -> None:
    kinds = column([{"kind": kind} for kind in ("soft", "hard", "soft")], "kind")
    assert kinds.words == ("hard", "soft")
    assert kinds.values.tolist() == [1.0, 0.0, 1.0]
    assert column([{"on": on} for on in (True, False)], "on").words == ("False", "True")


def test_importance_finds_the_key_that_decides() -> None:
    generator = np.random.default_rng(0)
    rows = [{"a": a, "b": b} for a, b in generator.uniform(size=(40, 2)).tolist()]
    figure = np.array([row["b"] ** 2 for row in rows])
    found = importances([column(rows, "a"), column(rows, "b")], figure)
    assert found is not None
    assert found.mean[1] > 10 * abs(found.mean[0])
    assert found.explained > 0.8
    again = importances([column(rows, "a"), column(rows, "b")], figure)
    assert again is not None
    assert again.mean.tolist() == found.mean.tolist()


def test_a_forest_that_predicts_nothing_says_so() -> None:
    generator = np.random.default_rng(1)
    rows = [{"a": a} for a in generator.uniform(size=30).tolist()]
    found = importances([column(rows, "a")], generator.normal(size=30))
    assert found is not None
    assert found.explained < 0.2


def test_there_is_no_importance_without_trials_that_differ() -> None:
    rows = [{"a": float(i)} for i in range(FEWEST_TRIALS)]
    assert importances([column(rows, "a")], np.zeros(len(rows))) is None
    assert importances([column(rows[1:], "a")], np.arange(len(rows) - 1.0)) is None
