"""Budgets of latency, through the command line; the table is made up, the rest is real."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from running import read_records, run_here, write_job
from tiny_target import tiny

from rl_compress.costs.latency_layers import LayerTimes
from rl_compress.costs.latency_predictor import Surroundings
from rl_compress.costs.latency_table import (
    LatencyTable,
    PredictionError,
    cached_path,
    model_digest,
    table_device,
)
from rl_compress.execution import check
from rl_compress.job import load_job
from rl_compress.model.axes import quantizable_weights

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BUDGET: dict[str, Any] = {"budget": {"latency_ms": 0.7}}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL_COMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _table(**changes: Any) -> LatencyTable:
    """Return a table in which each layer takes as long as its weight is large."""
    model = tiny().architecture()
    layers = []
    for name, axis in quantizable_weights(model).items():
        first, second = (np.unique([1, size]) for size in model.get_parameter(name).shape[:2])
        layers.append(LayerTimes(name, first, second, 1e-4 * np.outer(first, second), axis, 1))
    table = LatencyTable(
        device=table_device(DEVICE),
        digest=model_digest(model, tiny().example_inputs()),
        batch_size=1,
        threads=1,
        torch_version=torch.__version__,
        layers=tuple(layers),
        surroundings=Surroundings(1.0, 0.0, 0.01),
        error=PredictionError(12, 3.5, 9.5),
        target_ms=0.3,
    )
    return dataclasses.replace(table, **changes)


def _cached() -> Path:
    expected = _table()
    return cached_path(expected.device, expected.digest, 1)


@pytest.fixture(scope="module")
def run(_own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search on two workers, which must predict what the driver does."""
    folder = tmp_path_factory.mktemp("latency")
    _table().save(_cached())
    job = write_job(folder, search__algorithm="ppo", search__evaluations=8, **BUDGET)
    outcome = run_here("search", job, "--output", folder / "run")
    assert outcome.code == 0, outcome.stderr
    assert "Latency, as predicted" in outcome.stdout
    assert "% off" in outcome.stdout
    assert "median error 3.5 %" in outcome.stdout
    return folder / "run"


def test_every_record_is_within_the_budget_as_predicted(run: Path) -> None:
    problem = check(load_job(run / "job.yaml")).problem
    bound = problem.budget.as_dict()["latency_ms"]
    assert bound == pytest.approx(0.7 * problem.original_costs["latency_ms"])
    records = read_records(run)
    assert {record.worker for record in records} > {0}
    for record in records:
        levels = problem.space.levels_of(record.realised_policy())
        assert record.costs["latency_ms"] == pytest.approx(
            problem.costs.costs(levels)["latency_ms"]
        )
        assert record.costs["latency_ms"] <= bound


def test_the_prediction_stands_beside_the_measurement(run: Path) -> None:
    latency = json.loads((run / "best" / "manifest.json").read_text())["latency_ms"]
    predicted, measured = latency["predicted"], latency["delivered"]
    error = 100 * abs(predicted["delivered"] / measured - 1)
    assert predicted["error_percent"] == pytest.approx(error)
    assert predicted["median_error_percent"] == 3.5
    assert predicted["device"] == latency["device"] == table_device(DEVICE)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "whose own median error is 3.5" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_compress_takes_the_best_of_a_run_within_a_latency(run: Path, tmp_path: Path) -> None:
    arguments = ("compress", run / "job.yaml", "--run", run, "--output", tmp_path / "out")
    outcome = run_here(*arguments, "--budget", "latency_ms=0.9")
    assert outcome.code == 0, outcome.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    predicted = manifest["latency_ms"]["predicted"]
    assert predicted["delivered"] <= manifest["budget"]["latency_ms"]


def test_a_run_that_knew_of_no_latency_can_be_held_to_one(tmp_path: Path) -> None:
    _table().save(_cached())
    job = write_job(tmp_path, search__evaluations=4)
    assert run_here("search", job, "--output", tmp_path / "run").code == 0
    arguments = ("compress", job, "--run", tmp_path / "run", "--output", tmp_path / "out")
    outcome = run_here(*arguments, "--budget", "latency_ms=0.9")
    assert outcome.code == 0, outcome.stderr


def test_a_device_may_bring_its_table(tmp_path: Path) -> None:
    _table(device="another board, 4 threads").save(tmp_path / "board.parquet")
    profile = {"name": "board", "budget": {"latency_ms": 0.7}, "latency_table": "board.parquet"}
    bits = {"weight_bits": [16], "activation_bits": [16]}
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(profile | bits))
    job = write_job(tmp_path, device=str(tmp_path / "board.yaml"), budget={})
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert "other hardware" in outcome.stdout
    predicted = json.loads((tmp_path / "run" / "best" / "manifest.json").read_text())["latency_ms"]
    assert predicted["predicted"]["error_percent"] is None

    _table(batch_size=4).save(tmp_path / "board.parquet")
    outcome = run_here("check", job)
    assert outcome.code == 2
    assert "batches of 4, but export.latency_batch_size is 1" in outcome.error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, ["budget.latency_ms", "no latency table", "`rl-compress latency-table JOB`"]),
        ({"digest": "0" * 64}, ["another model", "`rl-compress latency-table JOB`"]),
        ({"device": "another board"}, ["another board", "`rl-compress latency-table JOB`"]),
    ],
    ids=["none", "another model", "another device"],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any] | None,
    words: list[str],
) -> None:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "cache"))
    if changes is not None:
        _table(**changes).save(_cached())
    outcome = run_here("search", write_job(tmp_path, **BUDGET), "--output", tmp_path / "run")
    assert outcome.code == 2, outcome
    for word in words:
        assert word in outcome.error
    assert not (tmp_path / "run").exists()


def test_sparse_structures_take_no_less_time(tmp_path: Path) -> None:
    job = write_job(tmp_path, space__pruning__structure="weights", **BUDGET)
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert "budget.latency_ms: space.pruning.structure: weights" in outcome.error
