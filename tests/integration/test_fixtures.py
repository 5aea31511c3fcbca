"""What release 0.1.0 wrote is still read, and means the same; see ``fixtures/v0_1_0/README.md``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numerics
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from running import Outcome, read_records, run_here, run_process

import rl_compress
from rl_compress.errors import ConfigError

V0_1_0 = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
RUNS = V0_1_0 / "run_dirs"

FINISHED = ("channels", "joint", "learned", "masks", "sparse")
INTERRUPTED = ("interrupted", "interrupted_learned")
OPTIONS = {"channels": ("--verify", "2", "--baselines", "uniform")}
"""What a run was begun with, beside its job."""

REPLACED: dict[str, str] = {}
"""Keys of job files that are no more, and the keys that took their place."""


def _copy(name: str, folder: Path) -> Path:
    """Copy a run, for reading may write; and git keeps no empty folder."""
    run = folder / name
    shutil.copytree(RUNS / name, run)
    (run / "checkpoints").mkdir(exist_ok=True)
    return run


def _stored(name: str) -> dict[str, list[Any]]:
    return json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))


def _resume(name: str, run: Path) -> Outcome:
    job = RUNS / f"{name}.yaml"
    return run_here("search", job, "--output", run, "--resume", *OPTIONS.get(name, ()))


def _figures(run: Path) -> list[dict[str, Any]]:
    """Return what a run's records say, as the package reads them."""
    return [
        {
            **{"evaluation_id": r.evaluation_id, "policy_id": r.policy_id, "worker": r.worker},
            **{"policy": json.loads(r.policy), "realised": json.loads(r.realised)},
            **{"score": r.score, "reward": r.reward, "seed": r.seed, "algorithm": r.algorithm},
            **{"cached": r.cached, "scored_share": r.scored_share, "wall_s": r.wall_s},
            **{"run": r.run, "trial": r.trial, "time": r.time.isoformat(), "costs": r.costs},
        }
        for r in read_records(run)
    ]


def _as_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a row that was stored."""
    row = dict(row)
    names = ("macs", "params", "size_bytes", "bops", "peak_memory_bytes", "latency_ms")
    costs = {name: row.pop(name) for name in names}
    row["costs"] = {name: value for name, value in costs.items() if value is not None}
    return {**row, "policy": json.loads(row["policy"]), "realised": json.loads(row["realised"])}


@pytest.mark.parametrize("name", sorted(path.stem for path in V0_1_0.glob("artefacts/*.npz")))
def test_artefact_gives_the_same_outputs(name: str) -> None:
    folder = RUNS / name / "best" if name in FINISHED else V0_1_0 / "artefacts" / name
    expected = np.load(V0_1_0 / "artefacts" / f"{name}.npz")

    model = rl_compress.load_compressed(folder)

    with torch.no_grad():
        outputs = model(torch.from_numpy(expected["inputs"]))
    np.testing.assert_allclose(outputs.numpy(), expected["outputs"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FINISHED + INTERRUPTED)
def test_records_are_read(name: str, tmp_path: Path) -> None:
    rows = _stored(name)["evaluations"]
    assert rows
    assert _figures(_copy(name, tmp_path)) == [_as_figures(row) for row in rows]


@pytest.mark.parametrize("name", FINISHED + INTERRUPTED)
def test_report_of_a_run_names_its_best(name: str, tmp_path: Path) -> None:
    run = _copy(name, tmp_path)

    outcome = run_here("report", run)

    assert outcome.code == 0, outcome.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    if name in FINISHED:
        best = json.loads((run / "summary.json").read_text(encoding="utf-8"))["best"]
        assert best["policy_id"] in page
    else:
        assert f"{len(_stored(name)['evaluations'])} evaluations" in page


def test_report_of_a_sweep_is_built(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(RUNS / "sweep", sweep)

    outcome = run_here("report", sweep)

    assert outcome.code == 0, outcome.stderr
    page = (sweep / "report.html").read_text(encoding="utf-8")
    for row in pq.read_table(sweep / "sweep.parquet").to_pylist():
        assert row["trial"] in page


@pytest.mark.parametrize("name", [name for name in FINISHED if name != "learned"])
def test_resumed_run_that_is_finished_measures_nothing(name: str, tmp_path: Path) -> None:
    run, stored = _copy(name, tmp_path), _stored(name)
    before = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    curves = run / "sensitivity.parquet"
    marked = _mark(curves) if curves.exists() else None

    outcome = _resume(name, run)

    assert outcome.code == 0, outcome.stderr
    assert _figures(run) == [_as_figures(row) for row in stored["evaluations"]]
    after = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for key in ("best", "evaluations", "failures", "lost"):
        assert after[key] == before[key], key
    assert after["delivered"]["policy_id"] == before["delivered"]["policy_id"]
    assert after["delivered"]["costs"] == before["delivered"]["costs"]
    assert _ids(pq.read_table(run / "pareto.parquet").to_pylist()) == stored["pareto"]
    # Curves measured again would not have the mark.
    assert marked is None or pq.read_table(curves).to_pylist() == marked


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["policy_id"] for row in rows]


def _mark(curves: Path) -> list[dict[str, Any]]:
    """Change the last score of a file of curves, and return its rows."""
    table = pq.read_table(curves)
    rows = table.to_pylist()
    rows[-1]["score"] -= 1e-3
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), curves)
    return rows


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupted_run_goes_on(name: str, tmp_path: Path) -> None:
    run, job = _copy(name, tmp_path), rl_compress.load_job(RUNS / f"{name}.yaml")
    before = [_as_figures(row) for row in _stored(name)["evaluations"]]
    assert len(before) < job.search.evaluations

    outcome = _resume(name, run)

    assert outcome.code == 0, outcome.stderr
    after = {row["evaluation_id"]: row for row in _figures(run)}
    assert len({row["policy_id"] for row in after.values()}) == job.search.evaluations
    assert [after[row["evaluation_id"]] for row in before] == before


@pytest.mark.parametrize("name", ["joint", "sparse"])
def test_best_of_a_run_is_compressed_again(name: str, tmp_path: Path) -> None:
    run, output = _copy(name, tmp_path), tmp_path / "compressed"

    outcome = run_here("compress", RUNS / f"{name}.yaml", "--run", run, "--output", output)

    assert outcome.code == 0, outcome.stderr
    delivered, expected = (
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for folder in (output, RUNS / name / "best")
    )
    assert delivered["policy_id"] == expected["policy_id"]
    assert delivered["costs"] == expected["costs"]


def test_curves_have_the_same_values() -> None:
    files = sorted(V0_1_0.rglob("sensitivity.json"))
    assert len(files) >= 3
    for file in files:
        rows = pq.read_table(file.with_suffix(".parquet")).to_pylist()
        assert rows == json.loads(file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("name", sorted(path.stem for path in V0_1_0.glob("jobs/*.yaml")))
def test_job_file_means_the_same(name: str, tmp_path: Path) -> None:
    given = yaml.safe_load((V0_1_0 / "jobs" / f"{name}.yaml").read_text(encoding="utf-8"))
    expected = json.loads((V0_1_0 / "jobs" / f"{name}.json").read_text(encoding="utf-8"))
    path = tmp_path / "job.yaml"
    for old in REPLACED.keys() & dict(_flat(given)).keys():
        path.write_text(yaml.safe_dump(given), encoding="utf-8")
        with pytest.raises(ConfigError, match=REPLACED[old]) as refusal:
            rl_compress.load_job(path)
        assert "\n" not in str(refusal.value)
        _move(given, old, REPLACED[old])
    path.write_text(yaml.safe_dump(given), encoding="utf-8")

    found = dict(_flat(yaml.safe_load(rl_compress.load_job(path).to_yaml())))

    wanted = {REPLACED.get(key, key): value for key, value in _flat(expected)}
    assert {key: found.get(key, "no such key") for key in wanted} == wanted


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values; what has no keys is a value."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _move(data: dict[str, Any], old: str, new: str) -> None:
    *sections, key = old.split(".")
    source = data
    for section in sections:
        source = source[section]
    value = source.pop(key)
    *sections, key = new.split(".")
    for section in sections:
        data = data.setdefault(section, {})
    data[key] = value


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(path.stem for path in V0_1_0.glob("searches/*.parquet")))
def test_search_is_the_same_bit_by_bit(name: str, tmp_path: Path) -> None:
    about = json.loads((V0_1_0 / "searches" / f"{name}.json").read_text(encoding="utf-8"))
    if numerics.digest() != about["numerics"]:
        pytest.skip("recorded where floating-point results were other than on this machine")
    changes = [part for change in about["set"] for part in ("--set", change)]
    run = tmp_path / "run"

    job = V0_1_0 / "jobs" / "digits.yaml"
    command = ("search", job, "--output", run, *changes)
    outcome = run_process(*command, cwd=tmp_path, timeout_s=1700)

    assert outcome.code == 0, outcome.stderr
    found = _figures(run)
    expected = pq.read_table(V0_1_0 / "searches" / f"{name}.parquet").to_pylist()
    for number, (row, wanted) in enumerate(zip(found, expected, strict=False)):
        same = {
            "realised": row["realised"] == json.loads(wanted.pop("realised")),
            **{key: row[key] == wanted.pop(key) for key in ("score", "reward")},
            "costs": row["costs"] == wanted,
        }
        assert all(same.values()), f"record {number} is the first to differ: {same}"
    assert len(found) == len(expected)
