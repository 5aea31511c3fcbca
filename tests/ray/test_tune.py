"""Sweeps on Ray Tune: real trials on a tiny target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from running import make_job

from rl_compress.errors import ConfigError, RunDirectoryError
from rl_compress.job import Job, parse_job
from rl_compress.reporting.sweep_report import build_sweep_report
from rl_compress.tuning.sweep import check_space, tune
from rl_compress.tuning.trial import trial_id

SPACE: dict[str, Any] = {
    "search.seed": {"grid": [0, 1]},
    "evaluation.calibration_batches": {"grid": [1, 2]},
}


def _job(**changes: Any) -> Job:
    values: dict[str, Any] = {"search__evaluations": 2, "tune": {"space": SPACE}, **changes}
    return parse_job(make_job(**values))


@pytest.fixture(scope="module")
def sweep(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sweep") / "sweep"
    result = tune(_job(), directory)
    assert result.directory == directory
    assert [row["status"] for row in result.rows] == ["done"] * 4
    assert result.best["best_score"] == max(row["best_score"] for row in result.rows)
    return directory


def test_every_point_of_the_grid_is_a_run_of_its_own(sweep: Path) -> None:
    rows = pq.read_table(sweep / "sweep.parquet").to_pylist()
    points = {(row["search.seed"], row["evaluation.calibration_batches"]) for row in rows}
    assert points == {(0, 1), (0, 2), (1, 1), (1, 2)}
    for row in rows:
        values = {key: row[key] for key in SPACE}
        assert row["trial"] == trial_id(values)
        run = sweep / "trials" / row["trial"]
        assert f"seed: {row['search.seed']}" in (run / "job.yaml").read_text()
        assert (run / "report.html").exists()
        assert (run / "best" / "model.safetensors").exists()
        assert 0 < row["macs_share"] <= 0.5


def test_the_report_names_the_best_and_needs_no_other_file(sweep: Path) -> None:
    text = build_sweep_report(sweep).read_text()
    assert "Best of 4 trials" in text
    assert "heat-map" in text
    assert "https://" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_resumed_sweep_repeats_nothing(sweep: Path, ray_session: Any) -> None:
    files = sorted(sweep.glob("trials/*/best/model.safetensors"))
    times = [path.stat().st_mtime_ns for path in files]
    first = pq.read_table(sweep / "sweep.parquet").to_pylist()
    again = tune(_job(), sweep, resume=True).rows
    assert [path.stat().st_mtime_ns for path in files] == times
    for row, other in zip(first, again, strict=True):
        assert row["best_score"] == other["best_score"]
    with pytest.raises(RunDirectoryError, match="--resume"):
        tune(_job(), sweep)


def test_a_trial_with_env_runners_takes_their_resources(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        search__algorithm="ppo",
        search__num_env_runners=1,
        search__evaluations=3,
        tune={"space": {"search.residual_scale": {"uniform": [0.2, 0.4]}}, "trials": 2},
    )
    result = tune(job, tmp_path / "sweep")
    assert [row["status"] for row in result.rows] == ["done", "done"]
    scales = [row["search.residual_scale"] for row in result.rows]
    assert len(set(scales)) == 2
    assert all(0.2 <= scale <= 0.4 for scale in scales)


def test_a_trial_larger_than_the_cluster_is_refused(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        search__algorithm="ppo", search__num_env_runners=64, search__num_cpus_per_env_runner=1.0
    )
    with pytest.raises(ConfigError, match=r"num_env_runners: a trial needs 65 CPUs"):
        tune(job, tmp_path / "sweep")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tune\.space: name the keys"),
        ({"search.seeds": {"grid": [1]}}, r"unknown key search\.seeds"),
        ({"contribution.alpha": {"grid": [0.5, 1.5]}}, r"contribution\.alpha"),
        ({"contribution.alpha": {"uniform": [0.5, 1.5]}}, r"contribution\.alpha"),
        ({"name.first": {"grid": ["a"]}}, "name is a value, not a section"),
    ],
)
def test_bad_spaces_are_refused_before_anything_starts(space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(_job(tune={"space": space}))
