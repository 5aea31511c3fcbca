from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from masks import make_compressor
from problems import toy_problem
from records import make_record

from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.baseline_search import run_baseline
from rl_compress.searchers.baselines.greedy import Greedy
from rl_compress.searchers.baselines.random_levels import Random
from rl_compress.searchers.convergence import Convergence
from rl_compress.searchers.sensitivity import measure_sensitivity
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels, SearchSpace

VALUES = np.array([0.4, 0.1, 0.3, 0.2, 0.0, 0.05])
COMPRESSOR = make_compressor(VALUES)
BUDGET = Budget((("params", 3.0),))
PROBLEM = toy_problem(COMPRESSOR.space, BUDGET, COMPRESSOR.costs)


class Candidates:
    """Measures masks by the sum of their units' values, through a ledger."""

    def __init__(self, store: Path, space: SearchSpace, limit: int = 1000) -> None:
        self.store = EvaluationStore(store)
        self.ledger = EvaluationLedger(self.store, limit)
        self.space = space
        self.measured: list[Levels] = []

    def __call__(self, levels: Levels) -> EvaluationRecord | None:
        policy_id = self.space.policy_of(levels).policy_id
        claim = self.ledger.claim(policy_id, 0)
        if claim.status == "granted":
            self.measured.append(levels)
            score = float(VALUES @ levels)
            record = make_record(claim.evaluation_id, policy_id=policy_id, score=score)
            self.ledger.complete(record)
            return record
        return claim.record


def _run(candidates: Candidates, baseline: Any, patience: int | None = None) -> str | None:
    return run_baseline(
        baseline,
        candidates,  # type: ignore[arg-type]
        candidates.ledger,
        convergence=Convergence(patience, candidates.store.read),
    )


def test_random_masks_meet_the_budget(tmp_path: Path) -> None:
    candidates = Candidates(tmp_path, COMPRESSOR.space, limit=30)
    assert _run(candidates, Random(PROBLEM)) is None
    masks = np.array(candidates.measured)
    assert len(masks) == 30
    assert set(masks.ravel()) == {0, 1}
    assert masks.sum(axis=1).max() == 3


def test_the_greedy_mask_is_carried_out_as_it_is(tmp_path: Path) -> None:
    space = COMPRESSOR.space
    curves = measure_sensitivity(space, lambda levels: float(VALUES @ levels), 1)
    candidates = Candidates(tmp_path, space, limit=1)
    _run(candidates, Greedy(dataclasses.replace(PROBLEM, curves=curves)))
    assert candidates.measured[0].tolist() == [1, 0, 1, 1, 0, 0]


def test_a_baseline_ends_when_it_has_converged(tmp_path: Path) -> None:
    candidates = Candidates(tmp_path, COMPRESSOR.space)
    reason = _run(candidates, Random(PROBLEM), patience=5)
    assert reason == "converged: no better policy in 5 evaluations"
    rewards = [record.reward for record in candidates.store.read()]
    assert rewards.index(max(rewards)) == len(rewards) - 1 - 5


def test_a_converged_baseline_stays_so_when_it_is_resumed(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        candidates = Candidates(tmp_path, COMPRESSOR.space)
        reason = _run(candidates, Random(PROBLEM), patience=5)
        found.append((reason, [record.evaluation_id for record in candidates.store.read()]))
    assert found[0] == found[1]
    assert candidates.measured == []


def test_an_interrupted_baseline_converges_where_it_would_have(tmp_path: Path) -> None:
    whole = Candidates(tmp_path / "whole", COMPRESSOR.space)
    _run(whole, Random(PROBLEM), patience=5)
    first = Candidates(tmp_path / "parts", COMPRESSOR.space, limit=len(whole.measured) - 3)
    assert _run(first, Random(PROBLEM), patience=5) is None
    second = Candidates(tmp_path / "parts", COMPRESSOR.space)
    assert _run(second, Random(PROBLEM), patience=5) is not None
    assert len(second.measured) == 3
    assert [r.policy_id for r in second.store.read()] == [r.policy_id for r in whole.store.read()]
