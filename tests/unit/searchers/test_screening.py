"""The reward predictor and the screening of proposals, on a toy whose curves are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from joint_toy import BUDGET, LAYERS, SPACE, Sizes, curves, loss, reward

from rl_compress.searchers.prior import greedy_widths
from rl_compress.searchers.reward_predictor import RewardPredictor
from rl_compress.searchers.screening import Known, Screening
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.projection import project
from rl_compress.space.search_space import GroupChoices, SearchSpace


def draw(count: int, seed: int = 0) -> Known:
    rng = np.random.default_rng(seed)
    rows = [
        project(rng.uniform(0.1, 1.0, len(SPACE)), BUDGET, SPACE, Sizes()) for _ in range(count)
    ]
    widths = np.stack(rows)
    return Known(widths, np.array([reward(row) for row in widths]))


def losses_of(known: Known) -> npt.NDArray[np.float64]:
    return -known.rewards


def test_predictions_rank_variants_that_were_not_measured() -> None:
    predictor = RewardPredictor(SPACE, curves(1.0))
    known, others = draw(60), draw(60, seed=1)
    predictor.fit(known.widths, losses_of(known))
    mean, deviation = predictor.predict(predictor.positions(others.widths))
    truth = np.log(losses_of(others))
    additive = np.log([-sum(-loss(i, x) for i, x in enumerate(w.tolist())) for w in others.widths])
    assert np.corrcoef(mean, truth)[0, 1] > 0.9
    assert np.corrcoef(mean, truth)[0, 1] > np.corrcoef(additive, truth)[0, 1]
    assert (np.abs(mean - truth) < 4 * deviation + 0.05).mean() > 0.9


def test_the_predictor_is_sure_of_what_it_was_shown_and_less_so_elsewhere() -> None:
    predictor = RewardPredictor(SPACE, curves(0.5))
    known = draw(40)
    predictor.fit(known.widths, losses_of(known))
    _, here = predictor.predict(predictor.positions(known.widths))
    _, elsewhere = predictor.predict(predictor.positions(draw(40, seed=2).widths))
    assert here.max() < elsewhere.mean()


def test_what_a_predictor_learned_before_does_not_count_where_records_are_fewer() -> None:
    known = draw(40)
    kept, anew = RewardPredictor(SPACE, curves(1.0)), RewardPredictor(SPACE, curves(1.0))
    kept.fit(known.widths, losses_of(known))
    for count in (20, 21):
        kept.fit(known.widths[:count], losses_of(known)[:count])
    anew.fit(known.widths[:20], losses_of(known)[:20])
    anew.fit(known.widths[:21], losses_of(known)[:21])
    places = kept.positions(draw(30, seed=1).widths)
    np.testing.assert_array_equal(kept.predict(places), anew.predict(places))


def search(seed: int, evaluations: int) -> float:
    """Return the best reward that screening finds."""
    wrong = curves(1.5)
    screening = Screening(SPACE, Sizes(), wrong, 0.0)
    rng = np.random.default_rng(seed)
    start = greedy_widths(wrong, BUDGET, SPACE, Sizes())
    widths = [start, project(np.full(len(SPACE), 0.5), BUDGET, SPACE, Sizes())]
    while len(widths) < evaluations:
        known = Known(np.stack(widths), np.array([reward(row) for row in widths]))
        centre = known.best(start) / SPACE.num_units
        wish = centre + rng.normal(0.0, 0.08, len(SPACE))
        proposal = project(wish, BUDGET, SPACE, Sizes())
        widths.append(screening.improve(proposal, BUDGET, known, rng))
        assert BUDGET.admits(Sizes().costs(widths[-1]))
    return max(reward(row) for row in widths)


def test_screened_proposals_beat_the_prior_and_far_more_random_ones() -> None:
    prior = reward(greedy_widths(curves(1.5), BUDGET, SPACE, Sizes()))
    found = search(seed=0, evaluations=30)
    assert found > prior
    assert found > draw(300).rewards.max()


def test_the_same_seed_proposes_the_same() -> None:
    assert search(seed=3, evaluations=14) == search(seed=3, evaluations=14)


def test_what_is_proposed_is_new_while_there_is_something_new() -> None:
    known = draw(20)
    screening = Screening(SPACE, Sizes(), curves(1.0), 0.0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = screening.improve(known.widths[0], BUDGET, known, rng)
        assert found.tolist() not in known.widths.tolist()


def test_where_all_curves_are_flat_there_is_something_new_too() -> None:
    given = curves(0.0)
    flat = dataclasses.replace(given, scores=tuple((0.0,) * len(own) for own in given.widths))
    screening = Screening(SPACE, Sizes(), flat, 0.0)
    rng = np.random.default_rng(0)
    widths = [greedy_widths(flat, BUDGET, SPACE, Sizes())]
    for _ in range(6):
        known = Known(np.stack(widths), np.array([reward(row) for row in widths]))
        found = screening.improve(widths[0], BUDGET, known, rng)
        assert found.tolist() not in known.widths.tolist()
        assert BUDGET.admits(Sizes().costs(found))
        widths.append(found)


@pytest.mark.parametrize("saved", [0.0, 5.0])
def test_rewards_above_the_uncompressed_targets_are_told_apart(saved: float) -> None:
    known = draw(40)
    shifted = Known(known.widths, known.rewards + saved)
    screening = Screening(SPACE, Sizes(), curves(1.0), 0.0)
    found = screening.improve(known.widths[0], BUDGET, shifted, np.random.default_rng(0))
    assert reward(found) > np.quantile(known.rewards, 0.75)


def test_records_of_others_are_added_once() -> None:
    mine = Known(np.array([[1, 2], [3, 4]]), np.array([0.1, 0.2]))
    others = Known(np.array([[3, 4], [5, 6]]), np.array([0.2, 0.3]))
    both = mine.with_others(others)
    assert both.widths.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert both.rewards.tolist() == [0.1, 0.2, 0.3]
    assert mine.with_others(mine) is mine
    assert mine.with_others(Known.nothing()) is mine
    assert Known.nothing().with_others(mine) is mine


def test_first_proposals_leave_nothing_of_the_budget_where_levels_are_many() -> None:
    """They are chosen among few levels, and then raised by the finest."""
    wide = SearchSpace(
        tuple(GroupChoices(f"g{i}", 1000, tuple(range(10, 1001))) for i in range(LAYERS))
        + SPACE.groups[LAYERS:]
    )
    levels = tuple((group.num_units, group.widths[0]) for group in wide.groups)
    names = tuple(group.name for group in wide.groups)
    decides = tuple(group.decides for group in wide.groups)
    drops = tuple((0.0, -1.0 - index) for index in range(len(wide)))
    budget = Budget((("size_bytes", 1000.0 * 8 * LAYERS * 0.4),))
    screening = Screening(wide, Sizes(), SensitivityCurves(names, levels, drops, decides), 0.0)
    rng = np.random.default_rng(0)

    first = [screening.improve(wide.full_widths, budget, Known.nothing(), rng) for _ in range(4)]

    assert len({row.tobytes() for row in first}) == 4
    for widths in first:
        assert budget.admits(Sizes().costs(widths))
        for index, group in enumerate(wide.groups):
            place = group.widths.index(int(widths[index]))
            if place + 1 < len(group.widths):
                raised = widths.copy()
                raised[index] = group.widths[place + 1]
                assert not budget.admits(Sizes().costs(raised))
