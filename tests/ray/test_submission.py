"""`rl-compress submit` against a cluster of one node, reached only through its dashboard."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from running import HERE, Outcome, read_records, run_process, write_job

import rl_compress

PACKAGE = Path(rl_compress.__file__).parents[1]
TOKEN = "an-example-of-a-token-of-forty-characters"


class Dashboard(NamedTuple):
    url: str


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    """Start a head on loopback that knows the package, and no target; stop it by its id."""
    folder = Path(tempfile.mkdtemp(prefix="rlc-"))  # Ray's sockets need a short path
    # Ray's workers use 10002 to 19999.
    gcs, http, agent, client, metrics = _free_ports(5)
    environment = {
        **os.environ,
        # `python` of a job is the first on the head's path.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(PACKAGE),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # Nothing is shared with searches here.
        "RL_COMPRESS_CACHE": str(folder / "cache"),
    }
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
                *("--node-ip-address", "127.0.0.1", "--port", str(gcs)),
                *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(http)),
                *("--dashboard-agent-listen-port", str(agent)),
                *("--ray-client-server-port", str(client)),
                *("--metrics-export-port", str(metrics)),
                *("--num-cpus", "2", "--object-store-memory", str(200 << 20)),
                *("--temp-dir", str(folder), "--disable-usage-stats"),
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{http}"
        _await(url, head, folder / "head.log")
        yield Dashboard(url)
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a job and its target's module, which nothing else knows."""
    shutil.copyfile(HERE / "tiny_target.py", tmp_path / "my_target.py")
    write_job(
        tmp_path,
        target__factory="my_target:tiny",
        search__algorithm="ppo",
        search__num_env_runners=1,
        search__evaluations=8,
        search__seed=3,
    )
    return tmp_path


def submit(project: Path, *arguments: object, **variables: str) -> Outcome:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    }
    environment |= {"PYTHONPATH": str(PACKAGE), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment |= variables
    return run_process(
        "submit", "job.yaml", *arguments, cwd=project, env=environment, timeout_s=240
    )


def test_a_submitted_job_gives_what_a_search_gives(project: Path, dashboard: Dashboard) -> None:
    there = submit(
        *(project, "--address", dashboard.url, "--wait", "--output", "there"),
        # An address of another kind, which Ray's own client would prefer.
        RAY_ADDRESS="127.0.0.1:1",
    )
    here = run_process(
        *("search", "job.yaml", "--output", "here"),
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
    )

    assert there.code == 0, f"{there.stdout}\n{there.stderr}"
    assert here.code == 0, here.stderr
    assert "run directory: run" in there.stdout  # the log is shown,
    assert "rl-compress-run" not in there.stdout  # without the run that is in it
    manifests = [
        json.loads((project / run / "best" / "manifest.json").read_text(encoding="utf-8"))
        for run in ("there", "here")
    ]
    assert manifests[0]["policy_id"] == manifests[1]["policy_id"]
    assert manifests[0]["scores"] == manifests[1]["scores"]
    assert [(record.policy_id, record.score) for record in read_records(project / "there")] == [
        (record.policy_id, record.score) for record in read_records(project / "here")
    ]
    files = [sorted(path.name for path in (project / run).iterdir()) for run in ("there", "here")]
    assert files[0] == files[1]


def test_exit_code_and_last_line_are_the_searchs(project: Path, dashboard: Dashboard) -> None:
    outcome = submit(
        *(project, "--address", dashboard.url, "--wait", "--output", "there", "--id", "too-small"),
        *("--set", "budget={macs: 0.0001}"),
    )

    assert outcome.code == 2, f"{outcome.stdout}\n{outcome.stderr}"
    assert "budget" in outcome.stdout
    assert outcome.error == (
        "error: too-small failed on the cluster (exit code 2); its log says why"
    )
    assert not (project / "there").exists()


@pytest.mark.slow
def test_a_submission_is_found_again_and_a_stored_run_is_resumed(
    project: Path, dashboard: Dashboard
) -> None:
    shared = project / "shared storage"
    options = ["--address", dashboard.url, "--storage", shared, "--set", "search.algorithm=random"]

    first = submit(project, *options, "--id", "first")
    again = submit(project, *options, "--id", "first", "--wait")
    other = submit(project, *options, "--id", "first", "--set", "search.seed=4")
    resumed = submit(project, *options, "--id", "second", "--wait")

    assert first.code == 0, first.stderr
    assert "--wait --id first" in first.stderr
    assert again.code == 0, f"{again.stdout}\n{again.stderr}"
    assert "found first" in again.stderr
    assert other.code == 2
    assert "--id first: names another job" in other.error
    assert resumed.code == 0, f"{resumed.stdout}\n{resumed.stderr}"
    assert len(read_records(shared)) == 8


@pytest.mark.parametrize("token", ["", "another-token-that-the-cluster-does-not-know"])
def test_a_wrong_token_is_one_line(project: Path, dashboard: Dashboard, token: str) -> None:
    variables = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}

    outcome = submit(project, "--address", dashboard.url, **variables)

    assert outcome.code == 2, outcome.stderr
    assert "RAY_AUTH_TOKEN" in outcome.error
    assert outcome.stderr.count("\n") == 1


def _free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _await(url: str, head: subprocess.Popen[bytes], log: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    request = urllib.request.Request(
        f"{url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError as error:
            if head.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"no dashboard at {url} ({error}):\n{log.read_text(encoding='utf-8')}"
                ) from None
        time.sleep(0.3)
