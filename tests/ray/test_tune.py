"""Sweeps on Ray Tune: real trials on a tiny target."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from running import make_job

from rl_compress.errors import ConfigError, RunDirectoryError
from rl_compress.execution import search
from rl_compress.job import Job, parse_job
from rl_compress.report.live import ConsoleMonitor
from rl_compress.report.sweep_report import build_sweep_report
from rl_compress.runs.store import EvaluationStore
from rl_compress.sweeps.population import adopt
from rl_compress.sweeps.sweep import SweepResult, check_space, tune
from rl_compress.sweeps.trial import trial_id

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
    monitor = ConsoleMonitor()  # as on the command line: Tune pickles what holds it
    result = tune(_job(), directory, monitor=monitor)
    monitor.close()
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


@pytest.mark.slow
def test_trials_wait_until_their_driver_and_runners_fit(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        search__algorithm="ppo",
        search__num_env_runners=1,
        search__num_cpus_per_env_runner=2.0,  # three CPUs of four: one trial at a time
        search__evaluations=3,
        tune={"space": {"search.residual_scale": {"uniform": [0.2, 0.4]}}, "trials": 2},
    )
    result = tune(job, tmp_path / "sweep")
    assert [row["status"] for row in result.rows] == ["done", "done"]
    scales = [row["search.residual_scale"] for row in result.rows]
    assert len(set(scales)) == 2
    assert all(0.2 <= scale <= 0.4 for scale in scales)
    # Both begin with the prior and the uniform variant.
    assert sorted(row["cache_hits"] > 0 for row in result.rows) == [False, True]


def test_trials_share_what_they_measure_and_weigh_it_themselves(
    ray_session: Any, tmp_path: Path
) -> None:
    weights = {"objective.weights.macs": {"grid": [0.0, 0.5]}}
    directory = tmp_path / "sweep"
    result = tune(_job(search__evaluations=6, tune={"space": weights}), directory)
    first, second = (
        EvaluationStore(directory / "trials" / row["trial"] / "evaluations").read()
        for row in result.rows
    )
    assert {r.policy_id: r.score for r in first} == {r.policy_id: r.score for r in second}
    assert [row["evaluations"] for row in result.rows] == [6, 6]
    # Whoever came first measured it.
    assert result.measured == result.cache_hits == 6
    assert [sum(r.cached for r in records) for records in (first, second)] == [
        row["cache_hits"] for row in result.rows
    ]
    original = json.loads((directory / "trials" / first[0].trial / "space.json").read_text())
    for record in first:
        assert record.reward == record.score
    for record in second:
        saved = 1 - record.costs["macs"] / original["costs"]["macs"]
        assert record.reward == pytest.approx(record.score + 0.5 * saved)
    (store,) = (directory / "evaluations").iterdir()
    shared = EvaluationStore(store).read()
    assert {record.policy_id for record in shared} == {record.policy_id for record in first}
    assert all(0 <= row["hypervolume"] <= 1 for row in result.rows)


PBT = {
    "space": {"search.residual_scale": {"uniform": [0.05, 0.5]}},
    "scheduler": "pbt",
    "trials": 4,
    "grace_evaluations": 4,
}

ASHA = _job(
    target={"factory": "tiny_target:tiny", "options": {"sleep_s": 0.3}},
    search__evaluations=9,
    tune={
        "space": {"budget.macs": {"grid": [0.7, 0.1]}},
        "scheduler": "asha",
        "max_concurrent": 1,
    },
)


@pytest.fixture(scope="module")
def stopped_early(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return tune(ASHA, tmp_path_factory.mktemp("asha") / "sweep")


@pytest.mark.slow
def test_asha_stops_what_is_worse(stopped_early: SweepResult) -> None:
    result = stopped_early
    stopped, done = result.rows
    assert (stopped["status"], done["status"]) == ("stopped", "done")
    assert 0 < stopped["evaluations"] < 9 == done["evaluations"]
    assert stopped["best_score"] < done["best_score"]
    assert result.best["trial"] == done["trial"]
    assert not (result.directory / "trials" / stopped["trial"] / "best").exists()
    assert result.statuses == {"done": 1, "stopped": 1, "failed": 0}


@pytest.mark.slow
def test_what_was_stopped_stays_so(stopped_early: SweepResult) -> None:
    assert tune(ASHA, stopped_early.directory, resume=True).rows == stopped_early.rows


@pytest.mark.slow
def test_tpe_goes_on_where_it_was(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        tune={
            "space": {"budget.macs": {"uniform": [0.1, 0.9]}},
            "sampler": "tpe",
            "trials": 3,
            "max_concurrent": 1,
        },
    )
    directory = tmp_path / "sweep"
    rows = tune(job, directory).rows
    assert len(rows) == 3
    # As if it had been killed in its last trial.
    lines = (directory / "begun.jsonl").read_text().splitlines()
    last = trial_id(json.loads(lines[2]))
    shutil.rmtree(directory / "trials" / last)
    assert {row["trial"] for row in tune(job, directory, resume=True).rows} == {
        row["trial"] for row in rows
    }


@pytest.mark.slow
def test_nsga2_compares_score_and_costs(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        tune={
            "space": {"budget.macs": {"uniform": [0.1, 0.9]}, "search.seed": {"choice": [0, 1]}},
            "sampler": "nsga2",
            "trials": 6,
        },
    )
    result = tune(job, tmp_path / "sweep")
    assert [row["status"] for row in result.rows] == ["done"] * len(result.rows)
    assert all(row["macs_share"] <= row["budget.macs"] for row in result.rows)


@pytest.mark.slow
def test_equal_draws_are_one_trial(ray_session: Any, tmp_path: Path) -> None:
    tuned = {"space": {"search.seed": {"choice": [3]}}, "trials": 3}
    result = tune(_job(tune=tuned), tmp_path / "sweep")
    assert [row["status"] for row in result.rows] == ["done"]


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["tensorboard", "mlflow", "wandb"])
def test_loggers_keep_the_figures(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    if logger != "tensorboard":
        pytest.importorskip(logger)
    monkeypatch.setenv("WANDB_MODE", "offline")
    directory = tmp_path / "sweep"
    space = {"search.seed": {"grid": [0]}}
    result = tune(_job(tune={"space": space, "loggers": [logger]}), directory)
    assert [row["status"] for row in result.rows] == ["done"]
    match logger:
        case "tensorboard":
            assert list(directory.glob("ray/tune/*/events.out.tfevents.*"))
        case "wandb":
            assert list(directory.glob("wandb/offline-run-*/*.wandb"))
        case "mlflow":
            import mlflow

            client = mlflow.MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
            (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
            (run,) = client.search_runs([experiment.experiment_id])
            assert run.data.metrics["best_score"] == result.best["best_score"]
            assert run.data.params["search.seed"] == "0"


def test_without_a_login_wandb_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not wandb.api.api_key
    job = _job(tune={"space": {"search.seed": {"grid": [0]}}, "loggers": ["wandb"]})
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        tune(job, tmp_path / "sweep")


@pytest.mark.parametrize(
    ("tuned", "missing", "message"),
    [
        ({"loggers": ["mlflow"]}, "mlflow", r"tune\.loggers: mlflow is not.*rl-compress\[mlflow\]"),
        ({"loggers": ["wandb"]}, "wandb", r"tune\.loggers: wandb is not.*rl-compress\[wandb\]"),
        ({"sampler": "tpe"}, "optuna", r"tune\.sampler: tpe needs Optuna.*rl-compress\[optuna\]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tuned: Any, missing: str, message: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == missing else find(name)
    )
    space = {"search.seed": {"choice": [0, 1]}}
    with pytest.raises(ConfigError, match=message):
        tune(_job(tune={"space": space, **tuned}), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_trial_larger_than_the_cluster_is_refused(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        search__algorithm="ppo", search__num_env_runners=64, search__num_cpus_per_env_runner=1.0
    )
    with pytest.raises(ConfigError, match=r"num_env_runners: a trial needs 65 CPUs"):
        tune(job, tmp_path / "sweep")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"tune\.scheduler: pbt.*search\.algorithm: random"),
        ({"space": {"budget.macs": {"uniform": [0.3, 0.5]}}}, r"tune\.space\.budget\.macs"),
        ({"space": {"search.evaluations": {"choice": [8, 9]}}}, r"tune\.space\.search\.eval"),
    ],
)
def test_trials_that_cannot_go_on_from_each_other_are_refused(
    tmp_path: Path, changes: Any, message: str
) -> None:
    algorithm = "ppo" if changes else "random"
    with pytest.raises(ConfigError, match=message):
        tune(_job(search__algorithm=algorithm, tune=PBT | changes), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tune\.space: name the keys"),
        ({"search.seeds": {"grid": [1]}}, r"unknown key search\.seeds"),
        ({"contribution.alpha": {"grid": [0.5, 1.5]}}, r"contribution\.alpha"),
        ({"contribution.alpha": {"uniform": [0.5, 1.5]}}, r"contribution\.alpha"),
        ({"name.first": {"grid": ["a"]}}, "name is a value, not a section"),
        ({"objective.score": {"grid": ["fidelity"]}}, r"objective\.score cannot be varied"),
    ],
)
def test_bad_spaces_are_refused_before_anything_starts(space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(_job(tune={"space": space}))


@pytest.mark.slow
def test_trials_that_lag_go_on_from_the_records_of_others(ray_session: Any, tmp_path: Path) -> None:
    job = _job(
        search__algorithm="ppo",
        search__num_env_runners=1,
        search__num_cpus_per_env_runner=0.0,
        search__evaluations=16,
        target={"factory": "tiny_target:tiny", "options": {"sleep_s": 0.1}},
        tune=PBT,
    )
    result = tune(job, tmp_path / "sweep")

    assert [row["status"] for row in result.rows] == ["done"] * 4
    trials = tmp_path / "sweep" / "trials"
    names = {row["trial"] for row in result.rows}
    left = {path.name for path in trials.iterdir()} - names
    assert left, "no trial went on from another"
    key = "search.residual_scale"
    heirs = [row for row in result.rows if trial_id({key: row[key]}) != row["trial"]]
    assert heirs
    for row in heirs:
        records = EvaluationStore(trials / row["trial"] / "evaluations").read()
        assert len(records) == len({record.policy_id for record in records}) == 16
        adopted = [record for record in records if record.worker == 0]
        assert 4 <= len(adopted) < 16
        assert all(record.cached for record in adopted)
        assert 0.05 <= row["search.residual_scale"] <= 0.5


def test_a_run_begins_with_what_another_knows_at_its_own_rewards(sweep: Path) -> None:
    row = pq.read_table(sweep / "sweep.parquet").to_pylist()[0]
    donor = sweep / "trials" / row["trial"]
    job = parse_job(make_job(objective__weights={"macs": 2.0}, search__evaluations=5))
    heir = sweep / "heir"

    adopt(donor, 1, heir, job)
    adopt(donor, 2, heir, job)  # begun already

    (known,) = EvaluationStore(heir / "evaluations").read()
    first, _ = EvaluationStore(donor / "evaluations").read()
    original = json.loads((donor / "space.json").read_text())["costs"]["macs"]
    assert (known.policy_id, known.score) == (first.policy_id, first.score)
    assert known.reward == pytest.approx(first.score + 2.0 * (1 - first.costs["macs"] / original))
    assert (known.worker, known.cached, known.run) == (0, True, "heir")
    search(job, heir, resume=True)
    assert len(EvaluationStore(heir / "evaluations").read()) == 5
    shutil.rmtree(heir)


def test_a_killed_trial_is_taken_up_and_measures_nothing_twice(
    ray_session: Any, tmp_path: Path
) -> None:
    (pids := tmp_path / "pids").mkdir()
    directory = tmp_path / "sweep"
    job = _job(
        search__evaluations=10,
        target={"factory": "tiny_target:tiny", "options": {"sleep_s": 0.2, "pids": str(pids)}},
        tune={"space": {"search.seed": {"grid": [5]}}},
    )
    killed = []

    def kill() -> None:
        while len(list(directory.glob("trials/*/evaluations/*.parquet"))) < 4:
            time.sleep(0.02)
        time.sleep(0.1)  # half of the next evaluation
        killed.extend({int(path.name) for path in pids.iterdir()} - {os.getpid()})
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = tune(job, directory)

    thread.join(timeout=5)
    assert len(killed) == 1
    (row,) = result.rows
    assert row["status"] == "done"
    (run,) = (directory / "trials").iterdir()
    records = EvaluationStore(run / "evaluations").read()
    assert len(records) == len({record.policy_id for record in records}) == 10
    assert result.measured == 10
    assert json.loads((run / "summary.json").read_text())["lost"] == 1
