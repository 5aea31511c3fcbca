"""Levels and bits in one search, from the job file to the file of packed codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from running import read_records, run_here, write_job
from tiny_target import tiny

import rl_compress
from rl_compress.export.tensor_file import read_tensors
from rl_compress.space.compression_policy import CompressionPolicy

SIZE: dict[str, Any] = {"budget": {"size_bytes": 0.15}}
BOTH: dict[str, Any] = {"budget": {"size_bytes": 0.2, "bops": 0.1}}


@pytest.fixture(scope="module", params=[SIZE, BOTH], ids=["size", "size and bops"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    job = write_job(folder, search__algorithm="greedy_evolution", **request.param)
    outcome = run_here("search", job, "--output", folder / "run")
    assert outcome.code == 0, outcome.stderr
    return folder / "run"


def test_the_search_decides_bits_beside_widths(run: Path) -> None:
    policy = dict(CompressionPolicy.load(run / "best" / "policy.json"))
    assert all(decision.weight_bits in (2, 3, 4, 5, 6, 8) for decision in policy.values())
    searched = "bops" in json.loads((run / "space.json").read_text())["budget"]
    assert all((decision.activation_bits is not None) == searched for decision in policy.values())
    records = read_records(run)
    assert len({record.policy_id for record in records}) == len(records)


def test_the_file_is_as_large_as_was_predicted(run: Path) -> None:
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    size = manifest["costs"]["size_bytes"]
    assert size["delivered"] <= manifest["budget"]["size_bytes"]
    path = run / "best" / "model.safetensors"
    stored = sum(t.numel() * t.element_size() for t in read_tensors(path).values())
    assert stored == size["delivered"]
    # Of a model of a few kilobytes the header is what tells which tensors it has.
    assert path.stat().st_size < stored + 1500


def test_what_is_loaded_computes_what_was_measured(run: Path) -> None:
    manifest = json.loads((run / "best" / "manifest.json").read_text())
    first, second = (rl_compress.load_compressed(run / "best") for _ in range(2))
    target = tiny()
    inputs, _ = next(target.batches("search"))
    with torch.no_grad():
        assert torch.equal(first(inputs), second(inputs))
    for split in ("search", "test"):
        measured = manifest["scores"][split]["delivered"]
        assert target.score(first, split) == pytest.approx(measured, abs=1e-6)


def test_the_report_shows_bits(run: Path) -> None:
    kinds = set(pq.read_table(run / "sensitivity.parquet")["decides"].to_pylist())
    assert kinds >= {"pruning_ratio", "weight_bits"}
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "What was pruned and quantized" in text
    assert text.count('aria-label="fidelity after') == len(kinds)


def test_check_says_what_may_be_decided(tmp_path: Path) -> None:
    outcome = run_here("check", write_job(tmp_path, **BOTH))
    assert outcome.code == 0, outcome.stderr
    for shown in ("2-6, 8", "4-6, 8", " 8 ", "weight"):
        assert shown in outcome.stdout
    for layer, place in (("conv1", "first"), ("fc2", "last")):
        assert f"{layer} is not pruned: {layer} is the {place} layer" in outcome.stdout
    outcome = run_here("check", write_job(tmp_path, space__protect=["conv2"], **BOTH))
    assert "conv2 is not pruned: conv2 is listed in space.protect" in outcome.stdout


def test_compress_takes_the_best_of_a_run_within_another_budget(run: Path, tmp_path: Path) -> None:
    again = run_here(
        *("compress", run / "job.yaml", "--run", run, "--budget", "size_bytes=0.5"),
        *("--output", tmp_path / "again"),
    )
    assert again.code == 0, again.stderr
    again = run_here(
        *("compress", run / "job.yaml", "--run", run, "--budget", "macs=1.0"),
        *("--output", tmp_path / "again"),
    )
    assert again.code == 0, again.stderr
