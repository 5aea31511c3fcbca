from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.fidelity import Fidelity
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.evaluation.racing import ERROR_RATE, Rival, Samples, is_worse, looks, race
from rl_compress.evaluation.scores import make_score
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore
from rl_compress.space.search_space import Levels
from rl_compress.targets.target import SPLITS, ClassificationTarget
from rl_compress.variants.compressor import Compressor

COUNT = 400
WIDE, NARROW = np.array([7, 10, 17]), np.array([0, 0, 0])  # all but one unit, the fewest


def _target() -> ClassificationTarget:
    generator = torch.Generator().manual_seed(0)
    splits = {
        name: TensorDataset(
            torch.randn(COUNT, 1, 8, 8, generator=generator),
            torch.randint(10, (COUNT,), generator=generator).sort().values,
        )
        for name in SPLITS
    }
    return ClassificationTarget(lambda: zoo.make("plain"), splits, batch_size=25)


def _evaluator(compressor: Compressor, *, racing: bool, score: str = "fidelity") -> Evaluator:
    config = EvaluationConfig(racing=racing, recalibration="none")
    return Evaluator(_target(), compressor, score, config)


def _rival(evaluator: Evaluator, levels: Levels, lead: float = 0.0) -> Rival:
    score = evaluator.evaluate(levels).score
    return Rival(levels, score, lambda _costs: score + lead)


def _run(candidate: Samples, rival: Samples, lead: float = 0.0) -> float:
    """Return the share that was scored."""
    comparisons = looks(len(candidate), 25)
    blocks = np.split(candidate, comparisons)
    found = race(blocks, rival, comparisons=comparisons, score=rival.mean(), lead=lead)
    return found.share


def test_candidates_are_looked_at_after_growing_shares() -> None:
    assert looks(1000, 5) == (125, 250, 500)
    assert looks(5000, 256) == (768, 1280, 2560)  # whole batches
    assert looks(100, 1) == (50,)  # the smaller shares have too few samples
    assert looks(269, 256) == looks(20, 5) == ()


def test_a_clearly_worse_candidate_is_dropped_at_the_first_look() -> None:
    rng = np.random.default_rng(0)
    rival = -rng.lognormal(size=COUNT)
    assert _run(rival - rng.lognormal(size=COUNT), rival) == 1 / 8


def test_a_better_candidate_is_scored_in_full() -> None:
    rng = np.random.default_rng(0)
    rival = -rng.lognormal(size=COUNT)
    assert _run(rival + 0.1 * rng.lognormal(size=COUNT), rival) == 1.0


@pytest.mark.parametrize("spread", [0.3, 1.5], ids=["even", "heavy-tailed"])
def test_as_good_a_candidate_is_dropped_as_rarely_as_promised(spread: float) -> None:
    rng = np.random.default_rng(1)
    trials, dropped = 4000, 0
    for _ in range(trials):
        common = rng.lognormal(sigma=1.0, size=COUNT)
        one, other = -common * rng.lognormal(sigma=spread, size=(2, COUNT))
        # Equal on the whole split, which is what decides.
        dropped += _run(one - one.mean() + other.mean(), other) < 1.0
    assert dropped <= ERROR_RATE * trials + 3 * np.sqrt(ERROR_RATE * trials)


def test_as_accurate_a_candidate_is_dropped_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(2)
    trials, dropped = 2000, 0
    for _ in range(trials):
        rival = 100.0 * (rng.random(COUNT) < 0.9)
        candidate = rng.permutation(rival)
        dropped += _run(candidate, rival) < 1.0
    assert dropped <= ERROR_RATE * trials + 3 * np.sqrt(ERROR_RATE * trials)


def test_samples_that_agree_tell_nothing() -> None:
    rival = 100.0 * (np.arange(1000) % 2)
    assert not is_worse(np.zeros(100), rival, lead=1.0)
    few = np.zeros(100)
    few[:9] = -100.0
    assert not is_worse(few, rival, lead=0.0)
    many = np.zeros(100)
    many[:40] = -100.0
    assert is_worse(many, rival, lead=0.0)
    assert not is_worse(many, np.append(np.full(100, 100.0), np.zeros(900)), lead=0.0)


def test_cheaper_candidates_may_score_lower_and_dearer_ones_may_not() -> None:
    rng = np.random.default_rng(3)
    rival = -rng.lognormal(size=COUNT)
    candidate = rival - 0.5 + 0.1 * rng.normal(size=COUNT)
    assert _run(candidate, rival, lead=-1.0) == 1.0
    assert _run(candidate, rival, lead=-0.4) < 1.0
    assert _run(candidate, rival, lead=-np.inf) == 1.0
    assert _run(rival + 0.1 * rng.normal(size=COUNT), rival, lead=0.4) < 1.0


def test_a_dropped_candidates_estimate_is_right_on_average_and_below_its_rival() -> None:
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(500):
        rival = -rng.lognormal(size=COUNT)
        candidate = 1.2 * rival - 0.5 * rng.lognormal(size=COUNT)
        blocks = [candidate[:50], candidate[50:]]
        found = race(blocks, rival, comparisons=(50,), score=rival.mean())
        if found.share < 1.0:
            assert found.score < rival.mean()
            errors.append(found.score - candidate.mean())
    assert len(errors) > 450
    assert abs(np.mean(errors)) < 0.02
    # The share's own mean would be off by the rival's spread too.
    assert np.std(errors) < 0.2


@pytest.mark.parametrize("score", ["fidelity", "accuracy"])
def test_survivors_have_the_score_that_they_have_without_races(
    score: str, compressor: Compressor
) -> None:
    raced = _evaluator(compressor, racing=True, score=score)
    plain = _evaluator(compressor, racing=False, score=score)
    rival = _rival(raced, NARROW, lead=-1000.0)
    for levels in (WIDE, NARROW, compressor.space.full):
        found = raced.evaluate(levels, rival)
        assert found.scored_share == 1.0
        assert found.score == pytest.approx(plain.evaluate(levels).score, rel=1e-5, abs=1e-9)


def test_a_variant_far_from_the_rival_is_dropped(compressor: Compressor) -> None:
    evaluator = _evaluator(compressor, racing=True)
    rival = _rival(evaluator, WIDE)
    found = evaluator.evaluate(NARROW, rival)
    assert found.scored_share < 1.0
    assert found.score < rival.score
    assert found.score == pytest.approx(evaluator.evaluate(NARROW).score, rel=0.3)


def test_a_rival_of_another_process_is_scored_again_with_the_same_outcome(
    compressor: Compressor,
) -> None:
    first, second = (_evaluator(compressor, racing=True) for _ in range(2))
    rival = _rival(first, WIDE)
    one, two = (evaluator.evaluate(NARROW, rival) for evaluator in (first, second))
    assert (one.score, one.scored_share) == (two.score, two.scored_share)


def test_without_racing_a_rival_changes_nothing(compressor: Compressor) -> None:
    evaluator = _evaluator(compressor, racing=False)
    rival = _rival(evaluator, compressor.space.full)
    found = evaluator.evaluate(NARROW, rival)
    assert (found.scored_share, found.score) == (1.0, evaluator.evaluate(NARROW).score)


def test_a_race_sees_sorted_classes_mixed() -> None:
    target = _target()
    score = Fidelity(target, target.build(), sampled=True)
    reference = torch.cat(list(score.samples(zoo.make("plain"))))
    assert len(reference) == score.num_samples == COUNT
    labels = next(target.batches("search", shuffle_seed=0))[1]
    assert len(labels.unique()) > 5


class _OwnScore(ClassificationTarget):
    def score(self, model: nn.Module, split: str) -> float:
        return super().score(model, split) ** 2


def test_a_score_that_is_no_mean_over_samples_is_taken_in_full(compressor: Compressor) -> None:
    splits = {name: _target().split(name) for name in SPLITS}
    own = _OwnScore(lambda: zoo.make("plain"), splits, batch_size=25)
    found = make_score("accuracy", own, own.build(), sampled=True)
    assert found.num_samples is None
    evaluator = Evaluator(own, compressor, "accuracy", EvaluationConfig(racing=True))
    rival = Rival(WIDE, 1e9, lambda _costs: 1e9)
    assert evaluator.evaluate(NARROW, rival).scored_share == 1.0
    robust = make_score("robust_accuracy", own, own.build(), sampled=True)
    assert robust.num_samples is None


def _search(
    compressor: Compressor, ledger: EvaluationLedger, candidates: list[Levels]
) -> list[EvaluationRecord | None]:
    evaluate = CandidateEvaluator(
        _evaluator(compressor, racing=True),
        ledger,
        compressor.space,
        lambda score, costs: 2 * score - costs["macs"] / 1e9,
        RunIdentity(run="digits", algorithm="random", seed=7),
    )
    return [evaluate(levels) for levels in candidates]


def test_a_dropped_candidate_is_stored_as_such_and_never_the_best(
    compressor: Compressor, store: EvaluationStore
) -> None:
    ledger = EvaluationLedger(store, 9)
    first, dropped = _search(compressor, ledger, [WIDE, NARROW])
    assert first is not None
    assert dropped is not None
    assert first.scored_share == 1.0 > dropped.scored_share
    assert dropped.reward == 2 * dropped.score - dropped.costs["macs"] / 1e9 < first.reward
    assert store.read() == [first, dropped]
    assert ledger.progress().best == first


def test_a_resumed_run_has_the_same_rewards(compressor: Compressor, store: EvaluationStore) -> None:
    rng = np.random.default_rng(0)
    candidates = [np.array([7, rng.integers(4, 11), rng.integers(19)]) for _ in range(12)]
    whole = _search(compressor, EvaluationLedger(store, 20), candidates)
    for record in whole:
        assert record is not None
    assert len({record.scored_share for record in whole if record}) > 1
    half = EvaluationStore(f"{store._folder}-half")
    _search(compressor, EvaluationLedger(half, 20), candidates[:5])
    resumed = _search(compressor, EvaluationLedger(half, 20), candidates)
    for one, other in zip(whole, resumed, strict=True):
        assert one is not None
        assert other is not None
        assert (one.reward, one.scored_share) == (other.reward, other.scored_share)
