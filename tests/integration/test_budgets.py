"""One search for several budgets, and its policies for others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from running import read_records, run_here, run_process, write_job

from rl_compress.searchers.sensitivity import SensitivityCurves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search for three budgets at once; the job's own is the one in the middle."""
    path = tmp_path_factory.mktemp("budgets")
    job = write_job(
        path,
        search__algorithm="ppo",
        search__evaluations=24,
        search__num_env_runners=1,
        search__budgets=[{"macs": 0.25}, {"macs": 0.8}],
    )
    outcome = run_process("search", job, "--output", path / "run", cwd=path)
    assert outcome.code == 0, outcome.stderr
    return path


def test_budgets_share_a_search_and_the_jobs_own_decides(folder: Path) -> None:
    run = folder / "run"
    records = read_records(run)
    space = json.loads((run / "space.json").read_text(encoding="utf-8"))
    bound, original = space["budget"]["macs"], space["costs"]["macs"]
    used = np.array([record.costs["macs"] for record in records]) / original
    assert len(records) == 24
    assert (used <= 0.25).any()
    assert (used > 0.5).any()
    assert (used <= 0.8).all()
    best = max(
        (r for r in records if r.costs["macs"] <= bound), key=lambda r: (r.reward, -r.evaluation_id)
    )
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["best"]["policy_id"] == best.policy_id
    assert summary["delivered"]["policy_id"] == best.policy_id
    assert summary["delivered"]["costs"]["macs"]["delivered"] <= bound


@pytest.mark.parametrize("share", [0.2, 0.65])
def test_a_run_has_a_policy_for_a_budget_that_it_was_not_trained_for(
    folder: Path, tmp_path: Path, share: float
) -> None:
    run = folder / "run"
    outcome = run_here(
        *("compress", folder / "job.yaml", "--run", run, "--budget", f"macs={share}"),
        *("--output", tmp_path / "out"),
    )
    assert outcome.code == 0, outcome.stderr
    said = " ".join(outcome.stderr.split())
    assert "reward on the search split:" in said
    assert "the best proposal" in said
    assert "is taken" in said
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    costs = manifest["costs"]["macs"]
    assert costs["delivered"] <= share * costs["original"]
    assert len(read_records(run)) == 24, "nothing was added to the run"
    assert SensitivityCurves.load(run / "sensitivity.parquet").evaluations > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search__algorithm": "random"}, ("does not learn",)),
        ({"search__budgets": [{}]}, ("at least one bound",)),
        ({"search__budgets": [{"mcas": 0.3}]}, ("search.budgets[0]", "mcas", "choose from")),
        ({"search__budgets": [{"macs": 0.3}, {"macs": 1e-5}]}, ("search.budgets[1]", "cannot be")),
        ({"evaluation": {"racing": True}}, ("evaluation.racing",)),
    ],
)
def test_budgets_that_cannot_be_searched_for(
    tmp_path: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    options = {"search__algorithm": "ppo", "search__budgets": [{"macs": 0.3}], **changes}
    outcome = run_here("check", write_job(tmp_path, **options))
    assert outcome.code == 2
    for word in ("search.budgets", *words):
        assert word in outcome.error
