"""Runs on remote storage: begun, killed, resumed elsewhere, cut off from it."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from running import finish, read_records, run_here, run_process, start, wait_for, write_job
from s3_server import S3Server

import rl_compress
from rl_compress.remote_runs import fetched
from rl_compress.runs import remote as remote_module
from rl_compress.runs import remote_lock
from rl_compress.runs.remote import RemoteFolder

pytestmark = pytest.mark.usefixtures("s3")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a machine of its own, and let it wait for nobody."""
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_lock, "_SETTLE_S", 0.0)
    return tmp_path / "cache"


def parts(uri: str) -> list[str]:
    names = RemoteFolder(uri).list()
    return [name for name in names if re.match(r"evaluations/.*\.parquet$", name)]


def test_a_run_killed_on_one_machine_is_resumed_on_another(
    tmp_path: Path, s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3.uri("runs/killed")
    job = write_job(tmp_path, target__options={"sleep_s": 0.1})
    process = start("search", job, "--output", uri, cwd=tmp_path)
    wait_for(lambda: len(parts(uri)) >= 3, process)
    process.kill()
    finish(process)
    with fetched(uri) as folder:
        before = read_records(folder)
    shutil.rmtree(cache)
    monkeypatch.setattr(remote_lock, "STALE_S", 1.0)

    again = run_here("search", job, "--output", uri)
    resumed = run_here("search", job, "--output", uri, "--resume")

    assert (again.code, resumed.code) == (2, 0), resumed.stderr
    assert "runs/killed" in again.error
    assert "add --resume" in again.error
    assert f"written to {uri}" in resumed.stdout
    with fetched(uri) as folder:
        assert read_records(folder)[: len(before)] == before
        assert len(read_records(folder)) == 12
        assert {record.run for record in read_records(folder)} == {"killed"}
        assert rl_compress.load_compressed(folder / "best")
        assert (folder / "report.html").exists()
    names = RemoteFolder(uri).list()
    assert "run.lock" not in names
    assert parts(uri) == ["evaluations/part-000000-000011.parquet"]


def test_report_and_compress_take_a_uri(tmp_path: Path, s3: S3Server, cache: Path) -> None:
    uri = s3.uri("runs/taken")
    job = write_job(tmp_path, search__evaluations=4)
    result = rl_compress.search(rl_compress.load_job(job), uri)
    assert result.location == uri
    assert (result.directory / "best" / "manifest.json").exists()
    remote = RemoteFolder(uri)
    before = remote.read("report.html")
    remote.delete("report.html")

    report = run_here("report", uri)
    compressed = run_here("compress", job, "--run", uri, "--output", tmp_path / "out")

    assert (report.code, compressed.code) == (0, 0), report.stderr + compressed.stderr
    assert remote.read("report.html") == before
    assert rl_compress.load_compressed(tmp_path / "out")


@pytest.mark.parametrize(
    ("command", "uri", "words"),
    [
        ("search", "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=x", "nothing"),
        ("search", "other", "there is no such bucket"),
        ("search", "ftp://host/runs", "use s3://, gs:// or a local path"),
        ("search", "file:///proc/nowhere/runs", "cannot be used"),
        ("search --if-changed", "s3://bucket/runs/x", "--if-changed replaces directories"),
        ("tune", "s3://bucket/sweep", "must be local here"),
        ("report", "nothing-there", "there is nothing; check the URI"),
    ],
)
def test_storage_that_cannot_be_used_is_one_line(
    tmp_path: Path, s3: S3Server, cache: Path, command: str, uri: str, words: str
) -> None:
    if "://" not in uri:
        uri = s3.uri("x", bucket=uri) if uri == "other" else s3.uri(uri)
    where = [uri] if command == "report" else [write_job(tmp_path), "--output", uri]

    outcome = run_here(*command.split(), *where)

    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert words in outcome.error
    assert not list(cache.rglob("job.yaml"))


@pytest.mark.parametrize("algorithm", ["random", pytest.param("ppo", marks=pytest.mark.slow)])
def test_storage_that_goes_away_ends_the_run_and_resume_brings_all_of_it(
    tmp_path: Path, s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.setattr("rl_compress.remote_runs.PATIENCE_S", 0.5)
    monkeypatch.setattr(remote_module, "_DELAYS_S", (0.2,))
    uri = s3.uri(f"runs/away-{algorithm}")
    options = {"sleep_s": 0.05}
    job = write_job(tmp_path, search__algorithm=algorithm, target__options=options)

    def cut() -> None:
        while len(parts(uri)) < 3:
            time.sleep(0.02)
        s3.stop()

    thread = threading.Thread(target=cut)
    thread.start()
    stopped = run_here("search", job, "--output", uri)
    thread.join()
    s3.start_again()

    assert stopped.code == 1
    assert "nothing answers" in stopped.error
    assert "--resume continues it and copies it" in stopped.error
    (folder,) = (path.parent for path in cache.rglob("job.yaml"))
    kept = read_records(folder)
    assert len(parts(uri)) < len(kept) < 12
    resumed = run_here("search", job, "--output", uri, "--resume")
    assert resumed.code == 0, resumed.stderr
    with fetched(uri) as copy:
        assert read_records(copy)[: len(kept)] == kept
        assert len(read_records(copy)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "appo"])
def test_a_learning_search_that_was_killed_is_resumed_elsewhere(
    tmp_path: Path, s3: S3Server, algorithm: str
) -> None:
    """With an actor that stores, in a process of its own."""
    uri = s3.uri(f"runs/{algorithm}")
    options = {"sleep_s": 0.1}
    job = write_job(tmp_path, search__algorithm=algorithm, target__options=options)
    environment = {**os.environ, "RL_COMPRESS_CACHE": str(tmp_path / "cache")}
    process = start("search", job, "--output", uri, cwd=tmp_path, env=environment)
    wait_for(lambda: len(parts(uri)) >= 5, process)
    process.kill()
    finish(process)
    with fetched(uri) as folder:
        before = read_records(folder)
    shutil.rmtree(tmp_path / "cache" / "runs")

    resumed = run_process(
        *("search", job, "--output", uri, "--resume"), cwd=tmp_path, env=environment, timeout_s=240
    )

    assert resumed.code == 0, resumed.stderr
    with fetched(uri) as folder:
        assert read_records(folder)[: len(before)] == before
        assert len(read_records(folder)) == 12
        assert (folder / "checkpoints" / "search.state").exists()
