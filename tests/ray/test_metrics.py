"""What a run looks like to Prometheus, and its workers' log lines."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from records import make_record
from running import run_process, write_job

from rl_compress.evaluation.ledger import Progress
from rl_compress.evaluation.measurement import RunIdentity


@pytest.mark.usefixtures("ray_session")
def test_figures_are_exported_for_prometheus() -> None:
    import ray

    from rl_compress.agent.rllib.metrics import RunMetrics

    class Shower:
        def __init__(self) -> None:
            self._metrics = RunMetrics(RunIdentity(run="digits", algorithm="ppo", seed=0))

        def show(self, progress: Progress) -> None:
            self._metrics.show(progress)

    best = make_record(0, score=-0.25)
    shower = ray.remote(Shower).options(num_cpus=0).remote()
    for done in (2, 2, 5):
        ray.get(shower.show.remote(Progress(done, 9, cache_hits=1, failures=0, best=best)))

    expected = {"evaluations_total": 5.0, "cache_hits_total": 1.0, "best_score": -0.25}
    deadline = time.monotonic() + 60
    while (found := _exported(ray.nodes()[0], "digits")) != (
        expected | {"best_reward": best.reward}
    ):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    ray.kill(shower)


def _exported(node: dict[str, Any], run: str) -> dict[str, float]:
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    pattern = rf'^ray_rl_compress_(\w+)\{{[^}}]*run="{run}"[^}}]*\}} (\S+)$'
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


@pytest.mark.slow
def test_workers_log_what_they_evaluate_as_json(tmp_path: Path) -> None:
    job = write_job(tmp_path, search__algorithm="ppo", search__evaluations=8)
    # Ray's own folder, so that the workers' files are found; short, for its sockets' names.
    with tempfile.TemporaryDirectory(prefix="ray") as session:
        outcome = run_process(
            *("--verbose", "--log-format", "json"),
            *("search", job, "--output", tmp_path / "run"),
            cwd=tmp_path,
            env={**os.environ, "RAY_TMPDIR": session},
        )
        files = Path(session).glob("ray/session_latest/logs/worker-*.err")
        lines = [line for file in files for line in file.read_text().splitlines()]

    assert outcome.code == 0, outcome.stderr
    lines += outcome.stderr.splitlines()
    found = [json.loads(line) for line in lines if '"event": "evaluated"' in line]
    assert sorted(line["evaluation_id"] for line in found) == list(range(8))
    assert {line["run"] for line in found} == {"run"}
    assert {line["worker"] for line in found} >= {0, 1}
