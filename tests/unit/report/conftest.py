from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records import make_record

from rl_compress.export.manifest import (
    CostChange,
    FileEntry,
    LatencyChange,
    Manifest,
    ScoreChange,
    Scores,
    SearchScoreChange,
)
from rl_compress.report.report import build_report
from rl_compress.runs.pareto import pareto_front
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.space.compression_policy import CompressionPolicy, Decision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = "name: tiny-30pct\nbudget: {macs: 0.3}\nobjective: {score: fidelity}\n"
SCRIPT = "<script>alert('layer')</script>"
"""What a hostile or clumsy model could call a layer."""


def policy(ratio: float) -> CompressionPolicy:
    return CompressionPolicy.from_mapping({"conv1": Decision(pruning_ratio=ratio)})


def record(number: int, ratio: float, score: float) -> EvaluationRecord:
    text = policy(ratio).to_json()
    return make_record(
        number,
        run="tiny-30pct",
        worker=1 + number % 2,
        algorithm="ppo",
        policy=text,
        policy_id=policy(ratio).policy_id,
        macs=round(1000 * (1 - ratio)),
        score=score,
        wall_s=0.5,
        cached=number == 1,
        time=datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number),
    )


RECORDS = [
    record(0, 0.9, -3.0),
    record(1, 0.8, -0.5),
    record(2, 0.7, float("nan")),
    record(3, 0.75, -0.1),
]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        created="2026-01-02T03:04:05+00:00",
        target={"factory": "digits", "options": {}, "weights": None},
        history=[("conv1", True, [1, 2, 3])],
        policy_id=policy(0.75).policy_id,
        budget={"macs": 300.0},
        costs={
            "macs": CostChange(original=1000, delivered=300),
            "size_bytes": CostChange(original=100_000, delivered=34_500),
        },
        group_macs={"conv1": CostChange(original=800, delivered=200)},
        scores=Scores(
            name="accuracy",
            search=SearchScoreChange(original=99.0, before_finetuning=96.5, delivered=98.8),
            test=ScoreChange(original=99.2, delivered=98.9),
        ),
        latency_ms=LatencyChange(original=1.7, delivered=0.81, device="a CPU", batch_size=4),
        finetuning_epochs=3,
        onnx_max_error=2e-7,
        files={"model.safetensors": FileEntry(bytes=35_000, sha256="0" * 64)},
    )


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Return a run directory that holds its job and nothing else."""
    run = RunDirectory(tmp_path / "run")
    run.create(JOB)
    return run.path


@pytest.fixture
def searched(started: Path) -> Path:
    """Return a run directory after the search."""
    run = RunDirectory(started)
    groups = [
        {"name": "conv1", "units": 8, "layers": ["conv1"], "prunable": True, "reason": None},
        {"name": SCRIPT, "units": 4, "layers": ["fc"], "prunable": False, "reason": "<b>out</b>"},
    ]
    groups[0] |= {"macs": 800, "params": 90}
    groups[1] |= {"macs": None, "params": None}
    space = {"groups": groups, "notes": [f"tied: {SCRIPT}"], "costs": {"macs": 1000}}
    run.write_json("space.json", space | {"budget": {"macs": 300.0}})
    run.write_json("environment.json", {"python": "3.11 & more", "cpu_count": 2})
    rows = [
        {"group": "conv1", "pruning_ratio": ratio, "score": score}
        for ratio, score in ((0.0, 0.0), (0.5, -0.1), (0.75, -0.7))
    ]
    pq.write_table(pa.Table.from_pylist(rows), run.sensitivity)
    store = EvaluationStore(run.evaluations)
    for entry in RECORDS:
        store.append(entry)
    run.write_records("pareto.parquet", pareto_front([RECORDS[1], RECORDS[3]], ["score", "macs"]))
    return started


@pytest.fixture
def section() -> Callable[[Path, str], str]:
    """Return a function of a run directory and a title: that section of its report, or nothing."""

    def of(run: Path, title: str) -> str:
        text = build_report(run).read_text(encoding="utf-8")
        return text.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]

    return of


@pytest.fixture
def finished(searched: Path, manifest: Manifest) -> Path:
    """Return the directory of a finished run."""
    best = RunDirectory(searched).best
    best.mkdir()
    (best / "policy.json").write_text(json.dumps(json.loads(policy(0.75).to_json())))
    manifest.save(best / "manifest.json")
    return searched
