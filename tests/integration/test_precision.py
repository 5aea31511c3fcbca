"""A search in bfloat16: what stays float32, which variant is chosen, what a resumed run keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import read_records, run_here, write_job

from rl_compress.evaluation import precision
from rl_compress.runs.run_directory import RunDirectory

CHANGES = {"search__algorithm": "greedy", "search__evaluations": 12, "finetuning__epochs": 0}


def _search(folder: Path, asked: str, *, computes: bool) -> Path:
    """Search on a machine that computes in bfloat16, or on one that does not."""
    job = write_job(folder, evaluation__precision=asked, **CHANGES)
    resume = ["--resume"] if (folder / "run").exists() else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "computes_in_bfloat16", lambda: computes)
        # Curves are not to be those of another test.
        patch.setenv("RL_COMPRESS_CACHE", str(folder / "cache"))
        outcome = run_here("search", job, "--output", folder / "run", *resume)
    assert outcome.code == 0, outcome.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _search(tmp_path_factory.mktemp("auto"), "auto", computes=True)


def test_curves_and_the_choice_of_the_best_are_in_float32(searched: Path, tmp_path: Path) -> None:
    exact = _search(tmp_path, "float32", computes=True)

    curves = [pq.read_table(each / "sensitivity.parquet") for each in (exact, searched)]
    assert curves[0].equals(curves[1])
    assert not (exact / "ranking.json").exists()
    expected = {record.policy_id: record.reward for record in read_records(exact)}
    found = {record.policy_id: record.reward for record in read_records(searched)}
    ranking = RunDirectory(searched).ranking()
    assert sorted(found, key=lambda name: -found[name])[:10] == list(ranking)
    shared = ranking.keys() & expected.keys()
    assert shared
    assert {name: ranking[name] for name in shared} == {name: expected[name] for name in shared}
    assert {name: found[name] for name in shared} != {name: expected[name] for name in shared}
    summary = json.loads((searched / "summary.json").read_text(encoding="utf-8"))
    best = max(ranking, key=lambda name: ranking[name])
    assert summary["best"]["policy_id"] == summary["delivered"]["policy_id"] == best
    # As it was measured.
    assert summary["best"]["reward"] == found[best]


def test_a_resumed_run_measures_as_it_began_and_goes_by_its_ranking(
    searched: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched, run)
    assert (run / "precision.txt").read_text(encoding="utf-8") == "bfloat16\n"
    ranking = RunDirectory(run).ranking()
    last = list(ranking)[-1]
    RunDirectory(run).write_ranking({**ranking, last: 1e3})
    for part in (run / "evaluations").iterdir():
        part.unlink()

    _search(tmp_path, "auto", computes=False)

    before, after = (
        [(record.policy_id, record.score) for record in read_records(each)]
        for each in (searched, run)
    )
    assert after == before
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["delivered"]["policy_id"] == last
    output = tmp_path / "compressed"
    outcome = run_here("compress", tmp_path / "job.yaml", "--run", run, "--output", output)
    assert outcome.code == 0, outcome.stderr
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["policy_id"] == last
