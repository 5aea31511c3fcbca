from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from joint_toy import BUDGET, SPACE, Sizes, curves, reward

from rl_compress.searchers.known import Known
from rl_compress.searchers.proposing import MOST, Proposal, proposals
from rl_compress.space.budget import Budget
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels

TIGHTER = Budget((("size_bytes", 0.7 * BUDGET.as_dict()["size_bytes"]),))


def _searched(count: int) -> Known:
    """Return what a search for a looser budget would know."""
    rng = np.random.default_rng(0)
    rows = [
        project(rng.uniform(0.1, 1.0, len(SPACE)), BUDGET, SPACE, Sizes()) for _ in range(count)
    ]
    return Known(np.stack(rows), np.array([reward(row) for row in rows]))


def _asked(known: Known, measure: Callable[[Levels], float | None] = reward) -> list[Proposal]:
    return list(proposals(SPACE, Sizes(), TIGHTER, curves(1.0), known, 0.0, measure))


def test_proposals_learn_from_what_was_measured_for_another_budget() -> None:
    found = _asked(_searched(60))

    assert [one.name for one in found] == ["the prior"] + ["the best proposal"] * (MOST - 1)
    assert len({one.levels.tobytes() for one in found}) == MOST
    assert all(TIGHTER.admits(Sizes().costs(one.levels)) for one in found)
    prior, *others = [one.worth for one in found]
    assert max(others) > prior, "the curves are wrong, and records tell so"


def test_the_same_records_give_the_same_proposals() -> None:
    first, second = _asked(_searched(60)), _asked(_searched(60))

    assert [one.levels.tolist() for one in first] == [one.levels.tolist() for one in second]


def test_what_cannot_be_scored_is_not_proposed_again() -> None:
    asked: list[bytes] = []

    def measure(levels: Levels) -> float | None:
        asked.append(levels.tobytes())
        return None if len(asked) % 2 else reward(levels)

    found = _asked(_searched(60), measure)

    assert len(set(asked)) == len(asked) == MOST
    failed = [one for one in found if one.reward is None]
    assert failed
    assert {one.worth for one in failed} == {-np.inf}


def test_what_was_measured_is_not_measured_again() -> None:
    known = _searched(60)
    first = _asked(known)
    assert len(known) == 60 + len(first)
    before = {row.tobytes() for row in known.levels}

    asked = _asked(known)

    assert len(asked) == MOST
    assert not {one.levels.tobytes() for one in asked} & before


def test_there_are_proposals_without_any_record() -> None:
    found = _asked(Known())

    assert found[0].worth == pytest.approx(reward(found[0].levels))
    assert len(found) > 1
