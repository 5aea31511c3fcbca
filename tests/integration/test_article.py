"""What the source article describes, through the command line: structures, quantizers, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import make_job, read_records, run_here, write_job
from tiny_target import tiny

import rl_compress
from rl_compress.job import parse_job

VARIANTS: dict[str, dict[str, Any]] = {
    "weights": {"space__pruning__structure": "weights", "space__pruning__importance": "activation"},
    "blocks": {
        "space__pruning__structure": "blocks",
        "space__pruning__block_shape": [2, 4],
        "space__skip": ["conv1"],
        "space__pruning__importance": "taylor",
    },
    "four bits": {"space__quantization__weight_bits": 4, "space__quantization__activation_bits": 8},
    "polynomial": {
        "space__quantization__weight_bits": 3,
        "space__quantization__quantizer": "polynomial",
        "space__quantization__range": "aciq",
    },
    "sparse and quantized": {
        "space__pruning__structure": "weights",
        "space__quantization__weight_bits": 3,
        "space__quantization__quantizer": "cumulative_shift",
    },
    "contribution": {
        "space__pruning__importance": "contribution",
        "search__algorithm": "contribution",
        "contribution__iterations": 3,
    },
    "global": {"search__algorithm": "global"},
    "fading": {"finetuning__schedule": "contribution", "contribution__finetune_steps": 2},
    "pre-trained": {"pretraining__mode": "layerwise", "pretraining__epochs": 2},
    "masks": {"space__action": "mask", "search__algorithm": "evolution"},
    "several objectives": {
        "objective__weights": {"score": 1.0, "bops": 0.1, "latency_ms": 0.01},
        "objective__pareto": ["score", "bops", "latency_ms"],
    },
    "robust": {"objective__score": "robust_accuracy"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_part_delivers_a_model_that_loads_as_it_was_measured(
    tmp_path: Path, name: str
) -> None:
    budget = {"budget": {"size_bytes": 0.6}}
    job = write_job(tmp_path, **budget, search__evaluations=4, **VARIANTS[name])
    run = tmp_path / "run"
    outcome = run_here("search", job, "--output", run)
    assert outcome.code == 0, outcome.stderr
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    model = rl_compress.load_compressed(run / "best")
    measured = manifest["scores"]["search"]["delivered"]
    assert tiny().score(model, "search") == pytest.approx(measured, abs=1e-6)
    size = manifest["costs"]["size_bytes"]
    assert size["delivered"] <= 0.6 * size["original"]
    header = 8 + 120 * 40  # of the safetensors file, at most
    file = (run / "best" / "model.safetensors").stat().st_size
    assert size["delivered"] <= file <= size["delivered"] + header
    records = read_records(run)
    assert all(record.costs["size_bytes"] <= 0.6 * size["original"] for record in records)
    # The size predicted for the policy that was delivered is the size of what was stored.
    delivered = next(r for r in records if r.policy_id == manifest["policy_id"])
    assert delivered.costs["size_bytes"] == size["delivered"]
    assert "<svg" in (run / "report.html").read_text()


def test_contributions_are_in_the_run_directory_and_the_report(tmp_path: Path) -> None:
    job = write_job(tmp_path, search__evaluations=2, **VARIANTS["contribution"])
    run = tmp_path / "run"
    assert run_here("search", job, "--output", run).code == 0
    assert (run / "contribution.parquet").exists()
    assert "Contributions" in (run / "report.html").read_text()


def test_pre_training_is_resumed_and_taken_up_by_compress(tmp_path: Path) -> None:
    job = write_job(tmp_path, search__evaluations=2, **VARIANTS["pre-trained"])
    run = tmp_path / "run"
    assert run_here("search", job, "--output", run).code == 0
    times = {path: path.stat().st_mtime_ns for path in (run / "pretraining").iterdir()}
    assert times
    again = run_here("compress", job, "--run", run, "--output", tmp_path / "again")
    assert again.code == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (run / "pretraining").iterdir()} == times
    first, second = (rl_compress.load_compressed(p) for p in (run / "best", tmp_path / "again"))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_attacks_are_mapped_before_and_after_compression(tmp_path: Path) -> None:
    job = write_job(tmp_path, vulnerability={"flips": 2, "random_trials": 2})
    outcome = run_here("sensitivity", job, "--attack", "--output", tmp_path / "map")
    assert outcome.code == 0, outcome.stderr
    assert "worst bits" in outcome.stdout
    for name in ("vulnerability-before.parquet", "vulnerability-after.parquet"):
        assert (tmp_path / "map" / name).exists()
    assert "<svg" in (tmp_path / "map" / "vulnerability.svg").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space__quantization__weight_bits": 9}, ["space.quantization.weight_bits", "1 to 8"]),
        ({"space__quantization__activation_bits": 0}, ["activation_bits", "1 to 8"]),
        ({"space__quantization__quantizer": "magic"}, ["space.quantization.quantizer"]),
        (
            {
                "space__quantization": {"weight_bits": 4, "granularity": "group", "group_size": 7},
                "space__pruning__structure": "weights",
            },
            ["space.quantization.group_size", "divide"],
        ),
        (
            {"space__quantization": {"weight_bits": 4, "granularity": "group"}},
            ["space.quantization.granularity", "structure"],
        ),
        ({"contribution__threshold": float("nan")}, ["contribution.threshold"]),
        ({"contribution__epsilon": -1.0}, ["contribution.epsilon"]),
        ({"contribution__alpha": 0.0}, ["contribution.alpha"]),
        ({"contribution__alpha": 1.5}, ["contribution.alpha"]),
        (
            {"space__action": "mask", "space__max_mask_units": 3},
            ["space.action", "max_mask_units"],
        ),
        (
            {"space__action": "mask", "search__algorithm": "sac"},
            ["search.algorithm", "sac"],
        ),
        ({"search__algorithm": "contribution"}, ["importance: contribution"]),
        ({"space__pruning__structure": "3:2"}, ["space.pruning.structure", "N < M"]),
        (
            {"space__pruning__importance": "batchnorm", "space__pruning__structure": "weights"},
            ["space.pruning.importance"],
        ),
        ({"objective__score": "r2"}, ["objective.score", "accuracy", "fidelity"]),
        ({"budget": {"latency_ms": 5}}, ["budget.latency_ms", "latency table"]),
        ({"pretraining": {"mode": "layerwise", "stages": ["no"]}}, ["pretraining.stages", "'no'"]),
        (
            {"finetuning__schedule": "contribution", "space__pruning__structure": "weights"},
            ["finetuning.schedule"],
        ),
        (
            {"evaluation__recalibration": "reconstruction", "space__pruning__structure": "weights"},
            ["evaluation.recalibration"],
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    job = write_job(tmp_path, **changes)
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in outcome.error
    if "pretraining" not in changes:
        assert not (tmp_path / "run").exists()


def test_yaml_reads_two_out_of_four_as_a_number_which_is_understood() -> None:
    job = parse_job(make_job(space__pruning__structure=124))
    assert job.space.pruning.structure == "2:4"
    assert parse_job(make_job(space__pruning__structure=248)).space.pruning.structure == "4:8"


def test_the_regressions_informative_weights_are_kept(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        target={"factory": "regression"},
        space__pruning={"structure": "weights", "importance": "contribution", "max_ratio": 0.99},
        budget={"params": 1.0},
        objective={"score": "r2"},
        contribution={"threshold": 1e-5, "iterations": 15},
        search__algorithm="contribution",
        search__evaluations=1,
        finetuning={"epochs": 5, "distillation": 0.0},
    )
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    model = rl_compress.load_compressed(tmp_path / "run" / "best")
    target = rl_compress.load_job(job).target
    from rl_compress.targets.factory import make_target

    made: Any = make_target(target)
    weight = model[0].weight.detach().numpy()[0]  # type: ignore[index]
    assert np.flatnonzero(weight).tolist() == made.informative_features
    scores = json.loads((tmp_path / "run" / "best" / "manifest.json").read_text())["scores"]
    assert scores["test"]["delivered"] >= scores["test"]["original"]
