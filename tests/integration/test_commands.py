"""The commands beside `search`, on the tiny target."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from running import read_records, run_here, write_job
from tiny_target import TinyNet, tiny

import rl_compress
from rl_compress.costs.latency_table import LatencyTable, find_latency_table

GROUPS = ["conv1", "conv2", "conv3", "fc1"]
LAYERS = [*GROUPS, "fc2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a job with a finished run in ``run``; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    job = write_job(folder, search__evaluations=6)
    outcome = run_here("search", job, "--output", folder / "run")
    assert outcome.code == 0, outcome.stderr
    return folder


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    decisions = {name: {"pruning_ratio": 0.5} for name in GROUPS}
    path.write_text(json.dumps({"decisions": decisions}), encoding="utf-8")
    return path


def test_check_shows_groups_and_costs_and_writes_nothing(tmp_path: Path) -> None:
    outcome = run_here("check", write_job(tmp_path))

    assert outcome.code == 0, outcome.stderr
    for word in [*GROUPS, "macs", "params", "size_bytes", "feasible"]:
        assert word in outcome.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_evaluate_shows_scores_of_both_models(tmp_path: Path, policy: Path) -> None:
    outcome = run_here("evaluate", write_job(tmp_path), "--policy", policy, "--split", "test")

    assert outcome.code == 0, outcome.stderr
    assert "test" in outcome.stdout
    original = tiny().score(tiny().build(), "test")
    assert f"{original:.1f}" in outcome.stdout


def test_evaluate_agrees_with_the_search(finished: Path) -> None:
    """The same policy costs the same, whoever asks."""
    record = read_records(finished / "run")[0]
    policy = finished / "asked.json"
    policy.write_text(record.realised, encoding="utf-8")
    job = rl_compress.load_job(finished / "job.yaml")

    from rl_compress.inspection import evaluate_policy
    from rl_compress.space.compression_policy import CompressionPolicy

    found = evaluate_policy(job, CompressionPolicy.load(policy), "search")

    assert found["policy_id"] == record.policy_id
    assert {cost: pair[1] for cost, pair in found["costs"].items()} == record.costs


def test_compress_carries_out_a_policy_file(tmp_path: Path, policy: Path) -> None:
    outcome = run_here(
        "compress", write_job(tmp_path), "--policy", policy, "--output", tmp_path / "out"
    )

    assert outcome.code == 0, outcome.stderr
    model = rl_compress.load_compressed(tmp_path / "out")
    assert isinstance(model, TinyNet)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (6, 8)
    assert (model.conv3.out_channels, model.fc1.out_features) == (10, 12)


def test_compress_carries_out_the_policy_of_a_run(tmp_path: Path, finished: Path) -> None:
    outcome = run_here(
        *("compress", finished / "job.yaml", "--run", finished / "run"),
        *("--output", tmp_path / "out"),
    )

    assert outcome.code == 0, outcome.stderr
    manifests = [
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "out", finished / "run" / "best")
    ]
    assert manifests[0]["policy_id"] == manifests[1]["policy_id"]
    assert manifests[0]["costs"] == manifests[1]["costs"]
    assert manifests[0]["scores"] == manifests[1]["scores"]


def test_compress_replaces_an_older_artefact(tmp_path: Path, policy: Path) -> None:
    arguments = ("compress", write_job(tmp_path), "--policy", policy, "--output", tmp_path / "out")
    assert run_here(*arguments).code == 0

    assert run_here(*arguments).code == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "out", "policy.json"]


def test_sensitivity_saves_curves_and_plot(tmp_path: Path) -> None:
    outcome = run_here("sensitivity", write_job(tmp_path), "--output", tmp_path / "curves")

    assert outcome.code == 0, outcome.stderr
    table = pq.read_table(tmp_path / "curves" / "sensitivity.parquet")
    assert set(table["group"].to_pylist()) == set(GROUPS)
    assert table.num_rows == len(GROUPS) * (3 + 1)
    assert (tmp_path / "curves" / "sensitivity.svg").read_text(encoding="utf-8").startswith("<")
    for group in GROUPS:
        assert group in outcome.stdout


def test_latency_table_is_kept_where_searches_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "cache"))
    target = tiny()
    job = write_job(tmp_path)

    outcome = run_here("latency-table", job, "--device", "cpu")

    assert outcome.code == 0, outcome.stderr
    for layer in (*LAYERS, "median", "worst"):
        assert layer in outcome.stdout
    found = find_latency_table(
        target.architecture(), target.example_inputs(), device=torch.device("cpu")
    )
    assert [layer.weight for layer in found.layers] == [f"{name}.weight" for name in LAYERS]
    assert found.error.variants == 12


def test_latency_table_goes_where_it_is_told(tmp_path: Path) -> None:
    job = write_job(tmp_path, export__latency_batch_size=4)
    path = tmp_path / "tables" / "tiny.parquet"

    outcome = run_here("latency-table", job, "--device", "cpu", "--output", path)

    assert outcome.code == 0, outcome.stderr
    assert str(path) in outcome.stdout
    assert LatencyTable.load(path).batch_size == 4


def test_check_takes_the_budget_of_a_device(tmp_path: Path) -> None:
    outcome = run_here("check", write_job(tmp_path, device="server", budget={"params": 0.5}))

    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.count("(50.0%)") == 2


def test_report_is_built_again_the_same(finished: Path) -> None:
    report = finished / "run" / "report.html"
    before = report.read_bytes()
    report.unlink()

    outcome = run_here("report", finished / "run")

    assert outcome.code == 0, outcome.stderr
    assert report.read_bytes() == before


def test_schema_describes_the_job_file() -> None:
    outcome = run_here("schema")

    assert outcome.code == 0
    schema = json.loads(outcome.stdout)
    assert {"name", "target", "budget"} <= set(schema["properties"])
    assert "factory" in schema["$defs"]["TargetConfig"]["properties"]


def test_job_in_a_run_directory_is_complete(finished: Path) -> None:
    """The job file with all defaults filled in is itself a job file, and the same one."""
    job = rl_compress.load_job(finished / "run" / "job.yaml")
    assert job == rl_compress.load_job(finished / "job.yaml")


def test_evaluated_variant_is_the_variant_delivered(finished: Path) -> None:
    """What the search costed is what the file holds."""
    best = max(read_records(finished / "run"), key=lambda record: record.reward)
    model = rl_compress.load_compressed(finished / "run" / "best")

    assert sum(p.numel() for p in model.parameters()) == best.costs["params"]
    with torch.no_grad():
        assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 4)
