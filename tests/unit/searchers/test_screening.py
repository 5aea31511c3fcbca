"""The reward predictor and the screening of proposals, on a toy whose curves are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from joint_toy import BUDGET, LAYERS, SPACE, Sizes, curves, loss, reward

from rl_compress.searchers.known import Known
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.reward_predictor import RewardPredictor
from rl_compress.searchers.screening import Screening
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.projection import project
from rl_compress.space.search_space import Dimension, SearchSpace

SIZES = Sizes()


def draw(count: int, seed: int = 0) -> Known:
    rng = np.random.default_rng(seed)
    rows = [project(rng.uniform(0.1, 1.0, len(SPACE)), BUDGET, SPACE, SIZES) for _ in range(count)]
    levels = np.stack(rows)
    return Known(levels, np.array([reward(row) for row in levels]))


def losses_of(known: Known) -> npt.NDArray[np.float64]:
    return -known.rewards


def test_predictions_rank_variants_that_were_not_measured() -> None:
    predictor = RewardPredictor(SPACE, curves(1.0))
    known, others = draw(60), draw(60, seed=1)
    predictor.fit(known.levels, losses_of(known))
    mean, deviation = predictor.predict(others.levels)
    truth = np.log(losses_of(others))
    amounts = SPACE.amounts(others.levels)
    additive = np.log([sum(loss(i, x) for i, x in enumerate(row)) for row in amounts.tolist()])
    assert np.corrcoef(mean, truth)[0, 1] > 0.9
    assert np.corrcoef(mean, truth)[0, 1] > np.corrcoef(additive, truth)[0, 1]
    assert (np.abs(mean - truth) < 4 * deviation + 0.05).mean() > 0.9


def test_the_predictor_is_sure_of_what_it_was_shown_and_less_so_elsewhere() -> None:
    predictor = RewardPredictor(SPACE, curves(0.5))
    known = draw(40)
    predictor.fit(known.levels, losses_of(known))
    _, here = predictor.predict(known.levels)
    _, elsewhere = predictor.predict(draw(40, seed=2).levels)
    assert here.max() < elsewhere.mean()


def test_what_a_predictor_learned_before_does_not_count_where_records_are_fewer() -> None:
    known = draw(40)
    kept, anew = RewardPredictor(SPACE, curves(1.0)), RewardPredictor(SPACE, curves(1.0))
    kept.fit(known.levels, losses_of(known))
    for count in (20, 21):
        kept.fit(known.levels[:count], losses_of(known)[:count])
    anew.fit(known.levels[:20], losses_of(known)[:20])
    anew.fit(known.levels[:21], losses_of(known)[:21])
    others = draw(30, seed=1).levels
    np.testing.assert_array_equal(kept.predict(others), anew.predict(others))


def search(seed: int, evaluations: int) -> float:
    """Return the best reward that screening finds."""
    wrong = curves(1.5)
    screening = Screening(SPACE, SIZES, wrong, 0.0)
    rng = np.random.default_rng(seed)
    start = greedy_levels(wrong, BUDGET, SPACE, SIZES)
    levels = [start, project(np.full(len(SPACE), 0.5), BUDGET, SPACE, SIZES)]
    while len(levels) < evaluations:
        known = Known(np.stack(levels), np.array([reward(row) for row in levels]))
        centre = SPACE.kept(known.best(BUDGET, SIZES, 1)[0][0])
        wish = centre + rng.normal(0.0, 0.08, len(SPACE))
        proposal = project(wish, BUDGET, SPACE, SIZES)
        levels.append(screening.improve(proposal, BUDGET, known, rng))
        assert BUDGET.admits(SIZES.costs(levels[-1]))
    return max(reward(row) for row in levels)


def test_screened_proposals_beat_the_prior_and_far_more_random_ones() -> None:
    prior = reward(greedy_levels(curves(1.5), BUDGET, SPACE, SIZES))
    found = search(seed=0, evaluations=30)
    assert found > prior
    assert found > draw(300).rewards.max()


def test_the_same_seed_proposes_the_same() -> None:
    assert search(seed=3, evaluations=14) == search(seed=3, evaluations=14)


def test_what_is_proposed_is_new_while_there_is_something_new() -> None:
    known = draw(20)
    screening = Screening(SPACE, SIZES, curves(1.0), 0.0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = screening.improve(known.levels[0], BUDGET, known, rng)
        assert found.tolist() not in known.levels.tolist()


def test_proposals_stay_new_when_only_some_records_are_learned_from() -> None:
    screening = Screening(SPACE, SIZES, curves(1.0), 0.0, bound=16)
    rng = np.random.default_rng(0)
    known = draw(20)
    proposal = greedy_levels(curves(1.0), BUDGET, SPACE, SIZES)
    for _ in range(120):
        found = screening.improve(proposal, BUDGET, known, rng, curiosity=0.0)
        assert found not in known
        known.add(found[None], np.array([reward(found)]))


def test_where_all_curves_are_flat_there_is_something_new_too() -> None:
    given = curves(0.0)
    flat = dataclasses.replace(given, scores=tuple((0.0,) * len(own) for own in given.amounts))
    screening = Screening(SPACE, SIZES, flat, 0.0)
    rng = np.random.default_rng(0)
    levels = [greedy_levels(flat, BUDGET, SPACE, SIZES)]
    for _ in range(6):
        known = Known(np.stack(levels), np.array([reward(row) for row in levels]))
        found = screening.improve(levels[0], BUDGET, known, rng)
        assert found.tolist() not in known.levels.tolist()
        assert BUDGET.admits(SIZES.costs(found))
        levels.append(found)


@pytest.mark.parametrize("saved", [0.0, 5.0])
def test_rewards_above_the_uncompressed_targets_are_told_apart(saved: float) -> None:
    known = draw(40)
    shifted = Known(known.levels, known.rewards + saved)
    screening = Screening(SPACE, SIZES, curves(1.0), 0.0)
    found = screening.improve(known.levels[0], BUDGET, shifted, np.random.default_rng(0))
    assert reward(found) > np.quantile(known.rewards, 0.75)


def test_records_are_added_once_and_the_last_are_cut_again() -> None:
    known = Known(np.array([[1, 2], [3, 4]]), np.array([0.1, 0.2]))
    known.add(np.array([[3, 4], [5, 6]]), np.array([0.2, 0.3]))
    assert known.levels.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert known.rewards.tolist() == [0.1, 0.2, 0.3]
    known.cut(2)
    assert np.array([5, 6]) not in known
    known.add(np.array([[7, 8]]), np.array([0.4]))
    assert known.levels.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert len(known) == 3


def test_first_proposals_leave_nothing_of_the_budget_where_levels_are_many() -> None:
    """They are chosen among few levels, and then raised by the finest."""
    wide = SearchSpace(
        tuple(Dimension(f"g{i}", "channels", tuple(range(10, 1001))) for i in range(LAYERS))
        + SPACE.dimensions[LAYERS:]
    )
    amounts = tuple((own.full, own.amounts[0]) for own in wide.dimensions)
    names = tuple(own.site for own in wide.dimensions)
    decides = tuple(own.decides for own in wide.dimensions)
    drops = tuple((0.0, -1.0 - index) for index in range(len(wide)))
    budget = Budget((("size_bytes", 1000.0 * 8 * LAYERS * 0.4),))
    sizes = Sizes(wide)
    screening = Screening(wide, sizes, SensitivityCurves(names, amounts, drops, decides), 0.0)
    rng = np.random.default_rng(0)

    first = [screening.improve(wide.full, budget, Known(), rng) for _ in range(4)]

    assert len({row.tobytes() for row in first}) == 4
    for levels in first:
        assert budget.admits(sizes.costs(levels))
        for index in np.flatnonzero(levels < wide.full):
            raised = levels.copy()
            raised[index] += 1
            assert not budget.admits(sizes.costs(raised))
