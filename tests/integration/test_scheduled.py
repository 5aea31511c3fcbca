"""`rl-compress search --if-changed`: what a scheduler starts every night."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_target
import torch
from running import Outcome, read_records, run_here, write_job
from torch import nn

from rl_compress import scheduled


class _Counted:
    def __init__(self) -> None:
        self.runs = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> _Counted:
    """Count the searches that are made."""
    found, search = _Counted(), scheduled.search

    def count(*arguments: object, **options: object) -> object:
        found.runs += 1
        return search(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scheduled, "search", count)
    return found


def _nightly(job: Path, *more: object) -> Outcome:
    outcome = run_here("search", job, "--if-changed", *more)
    assert outcome.code == 0, outcome.stderr
    return outcome


def _change_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    train = tiny_target.TinyTarget._train

    def changed(self: tiny_target.TinyTarget) -> nn.Module:
        model = train(self)
        with torch.no_grad():
            model.fc2.bias[0] += 1e-4  # type: ignore[index,operator]
        return model

    monkeypatch.setattr(tiny_target.TinyTarget, "_train", changed)


def test_only_changes_are_searched(
    tmp_path: Path, counted: _Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    before = read_records(run)
    assert counted.runs == 1
    assert set(json.loads((run / "fingerprint.json").read_text())) == {
        *("version", "job", "model", "data")
    }

    outcome = _nightly(job, "--output", run)

    assert counted.runs == 1
    assert "unchanged since the run in" in outcome.stderr
    assert outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 1
    assert read_records(run) == before

    write_job(tmp_path, search__evaluations=5)
    outcome = _nightly(job, "--output", run)

    assert counted.runs == 2
    assert "changed since the run in" in outcome.stderr
    assert len(read_records(run)) == 5
    assert {record.run for record in read_records(run)} == {"run"}
    assert read_records(tmp_path / "run.previous") == before

    _change_weights(monkeypatch)
    outcome = _nightly(job, "--output", run)

    assert counted.runs == 3
    assert ": model" in " ".join(outcome.stderr.split())
    assert len(read_records(tmp_path / "run.previous")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "run", "run.previous"]
    assert _nightly(job, "--output", run).stdout == ""


def test_an_older_run_stays_if_the_new_one_fails(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    before = read_records(run)
    write_job(tmp_path, search__evaluations=4, target={"factory": "tiny_target:always_failing"})

    failed = run_here("search", job, "--if-changed", "--output", run)

    assert failed.code != 0
    assert read_records(run) == before
    assert (run / "fingerprint.json").exists()
    write_job(tmp_path, search__evaluations=5)
    _nightly(job, "--output", run)
    assert len(read_records(run)) == 5
    assert not (tmp_path / "run.new").exists()


def test_an_unfinished_run_does_not_count(tmp_path: Path, counted: _Counted) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    (run / "fingerprint.json").unlink()
    _nightly(job, "--output", run)
    assert counted.runs == 2
    assert (run / "fingerprint.json").exists()


def test_a_swap_cut_short_is_made_good(tmp_path: Path, counted: _Counted) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    run.rename(tmp_path / "run.new")
    assert "unchanged" in _nightly(job, "--output", run).stderr
    assert counted.runs == 1
    assert read_records(run)


def test_without_an_output_the_latest_finished_run_counts(
    tmp_path: Path, counted: _Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, search__evaluations=4)
    _nightly(job)
    assert "unchanged" in _nightly(job).stderr
    assert counted.runs == 1
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 1


def test_what_the_command_asks_for_counts_too(tmp_path: Path, counted: _Counted) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    _nightly(job, "--output", run, "--verify", 1)
    assert counted.runs == 2


def test_a_folder_that_is_no_run_is_not_touched(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, search__evaluations=4), tmp_path / "run"
    _nightly(job, "--output", run)
    (tmp_path / "run.new").mkdir()
    (tmp_path / "run.new" / "mine.txt").write_text("keep", encoding="utf-8")
    write_job(tmp_path, search__evaluations=5)
    outcome = run_here("search", job, "--if-changed", "--output", run)
    assert outcome.code == 2
    assert "run.new: is in the way" in outcome.error
    assert (tmp_path / "run.new" / "mine.txt").exists()


def test_it_begins_afresh(tmp_path: Path) -> None:
    outcome = run_here("search", write_job(tmp_path), "--if-changed", "--resume")
    assert outcome.code == 2
    assert "--if-changed: begins afresh" in outcome.error
