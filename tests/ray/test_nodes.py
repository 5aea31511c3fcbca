"""Searches on a cluster of several nodes: placement, a node that is lost, one that joins late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from nodes import ENVIRONMENT, Nodes
from running import count_parts, finish, read_records, start, wait_for, write_job

EVALUATIONS = 32


def _search(folder: Path, nodes: Nodes, sleep_s: float) -> subprocess.Popen[str]:
    """Start a search with two runners, each of which fills a node of its own."""
    job = write_job(
        folder,
        search__algorithm="ppo",
        search__evaluations=EVALUATIONS,
        search__num_cpus_per_env_runner=1.0,
        # What workers are told is too large to travel with the call that starts an actor.
        target__options={"sleep_s": sleep_s, "ballast": "x" * (1 << 20)},
        finetuning__epochs=0,
    )
    arguments = ("search", job, "--output", folder / "run", "--address", nodes.address)
    return start(*arguments, cwd=folder, env={**os.environ, **ENVIRONMENT})


def _assert_complete(folder: Path) -> None:
    records = read_records(folder / "run")
    assert len(records) == len({record.policy_id for record in records}) == EVALUATIONS
    assert len({record.evaluation_id for record in records}) == EVALUATIONS


def test_runners_spread_over_nodes_outlive_one_and_use_one_that_joins_late(tmp_path: Path) -> None:
    """And the coordinator, killed after all that, comes back too."""
    with Nodes(1, 1) as nodes:
        process = _search(tmp_path, nodes, sleep_s=0.2)
        wait_for(lambda: count_parts(tmp_path / "run") >= 6, process)
        assert sorted(nodes.runners().values()) == sorted(nodes.raylets)

        nodes.kill(nodes.raylets[0])
        wait_for(lambda: count_parts(tmp_path / "run") >= 12, process)
        assert set(nodes.runners().values()) == set(nodes.raylets)

        late = nodes.add(1)
        wait_for(lambda: late in nodes.runners().values(), process)
        (coordinator,) = nodes.coordinators()
        os.kill(coordinator, signal.SIGKILL)
        outcome = finish(process)

    assert outcome.code == 0, outcome.stderr
    _assert_complete(tmp_path)


@pytest.mark.slow
def test_lost_node_that_nothing_replaces_keeps_no_place(tmp_path: Path) -> None:
    """What its runner was measuring is measured by the other, and nobody waits for it."""
    with Nodes(1, 1) as nodes:
        process = _search(tmp_path, nodes, sleep_s=0.5)
        run = tmp_path / "run"
        wait_for(lambda: count_parts(run) >= EVALUATIONS - 4, process)
        nodes.kill(nodes.raylets[0])
        outcome = finish(process)

    assert outcome.code == 0, outcome.stderr
    _assert_complete(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["lost"] <= 1
