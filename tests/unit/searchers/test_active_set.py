"""What the reward predictor learns from is bounded, and so is what a proposal costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from joint_toy import BUDGET, SPACE, Sizes, curves, reward

from rl_compress.searchers import reward_predictor
from rl_compress.searchers.active_set import BOUND, ActiveSets
from rl_compress.searchers.known import Known
from rl_compress.searchers.reward_predictor import RewardPredictor
from rl_compress.searchers.screening import Screening
from rl_compress.space.projection import project

SIZES, BOUNDED = Sizes(), 32


def draw(count: int, seed: int = 0) -> Known:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.1, 1.0, (count, len(SPACE)))
    levels = np.stack([project(row, BUDGET, SPACE, SIZES) for row in rows])
    return Known(levels, np.array([reward(row) for row in levels]))


def screening(bound: int = BOUNDED) -> Screening:
    return Screening(SPACE, SIZES, curves(1.5), 0.0, bound=bound)


class Work:
    """Counts what a proposal asks for: elements of kernels, and costs of variants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elements = self.variants = 0
        matern, batch = reward_predictor._matern, Sizes.batch

        def counted(distances: Any) -> Any:
            self.elements += distances.size
            return matern(distances)

        def asked(sizes: Sizes, levels: Any) -> Any:
            self.variants += len(levels)
            return batch(sizes, levels)

        monkeypatch.setattr(reward_predictor, "_matern", counted)
        monkeypatch.setattr(Sizes, "batch", asked)


def test_a_proposal_costs_no_more_after_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    work, all_of_them, spent = Work(monkeypatch), draw(1000), {}
    for count in (BOUNDED, 200, 1000):
        tried, known = screening(), Known(all_of_them.levels[:count], all_of_them.rewards[:count])
        rng = np.random.default_rng(0)
        tried.improve(known.levels[0], BUDGET, known, rng)  # what others learn once is left out
        work.elements = work.variants = 0
        found = tried.improve(known.levels[0], BUDGET, known, rng)
        assert found not in known
        assert len(tried._predictor.levels) <= BOUNDED
        spent[count] = np.array([work.elements, work.variants])
    assert (spent[1000] <= 1.2 * spent[200]).all()
    assert (spent[1000] <= 1.5 * spent[BOUNDED]).all()


def test_up_to_the_bound_all_records_are_learned_from() -> None:
    known = draw(BOUNDED)
    proposals = []
    for bound in (BOUNDED, BOUND):
        tried = screening(bound)
        proposals.append(
            tried.improve(known.levels[0], BUDGET, known, np.random.default_rng(0)).tolist()
        )
        assert len(tried._predictor.levels) == BOUNDED
    assert proposals[0] == proposals[1]


def test_the_set_holds_the_best_records_and_depends_on_nothing_but_them() -> None:
    known, sets = draw(300), ActiveSets(BOUNDED)
    chosen = sets.choose(known.levels, known.rewards, [BUDGET], SPACE, SIZES)
    assert len(chosen) == len(set(chosen.tolist())) == sets.chosen
    assert set(np.argsort(-known.rewards)[:8].tolist()) <= set(chosen.tolist())
    basis = screening().basis(known, [BUDGET])
    grown = screening()
    for count in range(BOUNDED + 1, 301):
        last = grown.basis(Known(known.levels[:count], known.rewards[:count]), [BUDGET])
    np.testing.assert_array_equal(basis.fit.levels, last.fit.levels)
    assert basis.fit.kernel == last.fit.kernel
    assert basis.size == last.size == sets.settled(300)


def test_what_is_taken_over_predicts_as_if_it_were_fitted_at_once() -> None:
    known, others = draw(60), draw(20, seed=1).levels
    whole, grown = RewardPredictor(SPACE, curves(1.5)), RewardPredictor(SPACE, curves(1.5))
    kernel = whole.likeliest(known.levels, -known.rewards)
    fit = grown.show(known.levels[:50], kernel)
    whole.show(known.levels, kernel)
    grown.take(fit, known.levels[50:])
    whole._length = fit.length
    factor = np.linalg.cholesky(whole._alike(known.levels) + kernel.noise * np.eye(60))
    whole._inverse = np.linalg.inv(factor)
    for predictor in (whole, grown):
        predictor.aim(-known.rewards)
    np.testing.assert_allclose(grown.predict(others), whole.predict(others), rtol=1e-6)
    grown.take(fit, known.levels[50:50])
    assert len(grown.levels) == 50


def test_screening_by_few_records_goes_on_finding_better_ones() -> None:
    rng, tried, known = np.random.default_rng(0), screening(), draw(BOUNDED)
    start = known.rewards.max()
    for _ in range(40):
        best, _ = known.best(BUDGET, SIZES, 1)
        found = tried.improve(best[0], BUDGET, known, rng)
        known.add(found[None], np.array([reward(found)]))
    assert len(known) == BOUNDED + 40
    assert known.rewards.max() > start
    assert known.rewards.max() > draw(1000, seed=2).rewards.max()
