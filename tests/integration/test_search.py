"""`rl-compress search` as its users run it: a process, from the job file to the report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from running import (
    HERE,
    Outcome,
    read_records,
    run_process,
    unfinished_files,
    write_job,
)
from tiny_target import tiny

import rl_compress


class _Run(NamedTuple):
    outcome: Outcome
    path: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> _Run:
    """Search with PPO on a local cluster of its own, with everything that is on by default."""
    folder = tmp_path_factory.mktemp("search")
    job = write_job(folder, search__algorithm="ppo", search__evaluations=10, export={"onnx": None})
    outcome = run_process("search", job, "--output", folder / "run", cwd=folder)
    return _Run(outcome, folder / "run")


def test_search_ends_well(finished: _Run) -> None:
    assert finished.outcome.code == 0, finished.outcome.stderr


def test_run_directory_holds_the_files_of_the_contract(finished: _Run) -> None:
    for name in (
        *("job.yaml", "environment.json", "space.json", "sensitivity.parquet", "pareto.parquet"),
        *("best/policy.json", "best/model.safetensors", "best/model.onnx", "best/manifest.json"),
        "report.html",
    ):
        assert (finished.path / name).stat().st_size > 0, name
    assert list((finished.path / "evaluations").glob("*.parquet"))
    assert any((finished.path / "checkpoints").iterdir())
    assert unfinished_files(finished.path) == []


def test_console_is_quiet(finished: _Run) -> None:
    lines = finished.outcome.stderr.splitlines()
    assert len(lines) < 15, finished.outcome.stderr
    assert "Traceback" not in finished.outcome.stderr


def test_result_is_printed(finished: _Run) -> None:
    assert str(finished.path) in finished.outcome.stdout.replace("\n", "")
    assert "MACs" in finished.outcome.stdout


def test_exactly_the_evaluations_asked_for_are_stored(finished: _Run) -> None:
    records = read_records(finished.path)
    assert len(records) == len({record.policy_id for record in records}) == 10


def test_evaluations_have_the_columns_of_the_contract(finished: _Run) -> None:
    (part,) = (finished.path / "evaluations").glob("*.parquet")
    schema = pq.read_schema(part)
    assert set(schema.names) >= {
        *("evaluation_id", "run", "trial", "worker", "algorithm", "policy", "policy_id"),
        *("realised", "macs", "params", "size_bytes", "score", "reward", "seed", "wall_s"),
        *("cached", "time"),
    }
    assert b"rl_compress_schema_version" in schema.metadata


def test_pareto_front_is_not_dominated(finished: _Run) -> None:
    rows = pq.read_table(finished.path / "pareto.parquet").to_pylist()
    records = read_records(finished.path)
    assert rows
    for row in rows:
        assert not any(
            record.score > row["score"] and record.costs["macs"] <= row["macs"]
            for record in records
        )


def test_delivered_policy_is_the_one_with_the_highest_reward(finished: _Run) -> None:
    best = max(read_records(finished.path), key=lambda record: record.reward)
    delivered = json.loads((finished.path / "best" / "policy.json").read_text(encoding="utf-8"))
    assert delivered == json.loads(best.realised)


def _manifest(run: _Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run.path / "best" / "manifest.json").read_text(encoding="utf-8")
    )
    return found


def test_loaded_model_scores_what_the_manifest_says(finished: _Run) -> None:
    model = rl_compress.load_compressed(finished.path / "best")
    scores = _manifest(finished)["scores"]
    assert tiny().score(model, "test") == scores["test"]["delivered"]
    assert tiny().score(model, "search") == scores["search"]["delivered"]


def test_loaded_model_computes_what_the_onnx_file_computes(finished: _Run) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = rl_compress.load_compressed(finished.path / "best")
    session = onnxruntime.InferenceSession(
        finished.path / "best" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = model(inputs).numpy()

    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})

    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_delivered_file_is_smaller_and_within_the_budget(finished: _Run) -> None:
    manifest = _manifest(finished)
    assert manifest["costs"]["macs"]["delivered"] <= manifest["budget"]["macs"]
    file = finished.path / "best" / "model.safetensors"
    assert file.stat().st_size < manifest["costs"]["size_bytes"]["original"]


def test_report_needs_no_other_file(finished: _Run) -> None:
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    for word in ('src="http', 'href="http', "@import", "<link"):
        assert word not in page


def test_environment_names_no_machine(finished: _Run) -> None:
    text = (finished.path / "environment.json").read_text(encoding="utf-8")
    assert os.uname().nodename not in text
    assert "ray" in json.loads(text)


@pytest.mark.slow
def test_target_in_the_current_directory_is_found_by_the_env_runners(tmp_path: Path) -> None:
    shutil.copy(HERE / "tiny_target.py", tmp_path / "my_own_target.py")
    job = write_job(
        tmp_path,
        target={"factory": "my_own_target:tiny"},
        search__algorithm="ppo",
        search__evaluations=6,
        search__num_env_runners=1,
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    outcome = run_process("search", job, "--output", "run", cwd=tmp_path, env=env)

    assert outcome.code == 0, outcome.stderr
    records = read_records(tmp_path / "run")
    assert len(records) == 6
    assert {record.worker for record in records} == {0, 1}
