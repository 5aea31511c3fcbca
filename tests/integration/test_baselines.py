"""Baseline searches in this process: as many evaluations as asked, all within the budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from running import make_job, prepared, read_records, searched

from rl_compress.execution import search
from rl_compress.job import parse_job
from rl_compress.runs.record import EvaluationRecord

BASELINES = ["uniform", "random", "greedy", "evolution", "greedy_evolution", "tpe", "cmaes"]


def _essence(record: EvaluationRecord) -> dict[str, Any]:
    found = dataclasses.asdict(record)
    return {key: found[key] for key in found if key not in ("wall_s", "time", "run")}


@pytest.mark.parametrize("algorithm", BASELINES)
def test_baseline_makes_exactly_the_evaluations_asked_for(tmp_path: Path, algorithm: str) -> None:
    progress, reason = searched(tmp_path, search__algorithm=algorithm, search__evaluations=15)

    assert reason is None
    assert progress.done == 15
    records = read_records(tmp_path)
    assert len(records) == len({record.policy_id for record in records}) == 15
    assert sorted(record.evaluation_id for record in records) == list(range(15))
    assert {record.algorithm for record in records} == {algorithm}


@pytest.mark.parametrize("algorithm", BASELINES)
def test_baseline_keeps_the_budget(tmp_path: Path, algorithm: str) -> None:
    bounds = {"macs": 0.4, "params": 4000}

    searched(tmp_path, search__algorithm=algorithm, budget=bounds)

    macs = 0.4 * prepared(tmp_path).problem.original_costs["macs"]
    for record in read_records(tmp_path):
        assert record.costs["macs"] <= macs
        assert record.costs["params"] <= 4000


@pytest.mark.parametrize("algorithm", BASELINES)
def test_same_seed_gives_the_same_records(tmp_path: Path, algorithm: str) -> None:
    for folder in ("one", "two"):
        searched(tmp_path / folder, search__algorithm=algorithm, search__evaluations=10)

    one, two = (read_records(tmp_path / folder) for folder in ("one", "two"))
    assert list(map(_essence, one)) == list(map(_essence, two))


@pytest.mark.parametrize("algorithm", ["random", "evolution"])
def test_other_seed_gives_other_records(tmp_path: Path, algorithm: str) -> None:
    for seed in (0, 1):
        searched(tmp_path / str(seed), search__algorithm=algorithm, search__seed=seed)

    one, two = ({r.policy_id for r in read_records(tmp_path / seed)} for seed in ("0", "1"))
    assert one != two


@pytest.mark.parametrize("algorithm", ["random", "evolution"])
def test_variants_that_fail_are_counted_and_replaced(tmp_path: Path, algorithm: str) -> None:
    progress, _ = searched(
        tmp_path,
        search__algorithm=algorithm,
        search__evaluations=15,
        objective__score="accuracy",
        target__options={"fails": True},
    )

    assert progress.done == len(read_records(tmp_path)) == 15
    assert progress.failures > 0


def test_variants_that_fail_among_the_sensitivities_do_not_end_thesearched(tmp_path: Path) -> None:
    """A variant that cannot be measured costs its own measurement, not the run."""
    progress, _ = searched(
        tmp_path,
        search__algorithm="greedy",
        search__evaluations=10,
        objective__score="accuracy",
        target__options={"fails": True},
    )

    assert progress.done == len(read_records(tmp_path)) == 10


@pytest.mark.timeout(20)
def test_search_in_which_every_variant_fails_ends_with_an_error(tmp_path: Path) -> None:
    """A target whose scoring always fails must not run for ever."""
    from rl_compress.errors import RLCompressError

    job = parse_job(
        make_job(target={"factory": "tiny_target:always_failing"}, objective__score="accuracy")
    )
    with pytest.raises(RLCompressError, match="cursed"):
        search(job, tmp_path / "run")


def test_space_with_few_variants_ends_early_and_says_so(tmp_path: Path) -> None:
    progress, reason = searched(
        tmp_path,
        search__algorithm="uniform",
        search__evaluations=10_000,
    )

    assert reason is not None
    assert 0 < progress.done < 10_000
    assert progress.done == len(read_records(tmp_path))


@pytest.mark.parametrize("recalibration", ["auto", "reconstruction", "bias", "none"])
def test_network_without_batchnorm_goes_the_main_path(tmp_path: Path, recalibration: str) -> None:
    job = parse_job(
        make_job(
            target__options={"batchnorm": False},
            evaluation={"recalibration": recalibration},
            search__evaluations=5,
        )
    )

    result = search(job, tmp_path / "run")

    assert result.manifest.costs["macs"].delivered <= result.manifest.budget["macs"]
    scores = result.manifest.scores
    assert scores is not None
    assert scores.test is not None
    assert scores.test.delivered > 50.0


def test_reconstruction_scores_better_than_nothing(tmp_path: Path) -> None:
    """Repair is what makes a search's scores tell something."""
    best = {}
    for method in ("reconstruction", "none"):
        progress, _ = searched(
            tmp_path / method,
            target__options={"batchnorm": False},
            evaluation={"recalibration": method},
        )
        assert progress.best is not None
        best[method] = progress.best.score

    assert best["reconstruction"] > best["none"]
