"""Throughput against the number of env runners, with evaluations that sleep, over four raylets.

    python tests/benchmarks/scale.py ledger --name scale_ledger
    python tests/benchmarks/scale.py search --name scale_search

`ledger`: the part of a run that all runners share, and so what bounds a large cluster: the real
coordinator with its ledger and store, asked by 1 to 64 actors that do all that a runner does for an
evaluation but for the agent and the target: they claim, sleep, hand in.

`search`: whole searches, RLlib's agents and screening included, on a small network with a sleep in
every evaluation.

Sleeping takes no core, so a machine with few cores can stand for a cluster until the rest of an
evaluation's work fills them; the processor time of that is measured beside, which tells where the
limit is on other machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from figures import RESULTS, write_study
from nodes import ENVIRONMENT, Nodes

os.environ |= ENVIRONMENT  # before Ray, which reads it at once

import numpy as np
import ray

from rl_compress.agent.rllib.cluster import connected
from rl_compress.agent.rllib.coordinator import (
    NAMESPACE,
    RemoteLedger,
    start_coordinator,
)
from rl_compress.agent.task import Task
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.ledger import Progress
from rl_compress.evaluation.measurement import Measurement
from rl_compress.job import parse_job, with_values
from rl_compress.monitor import SilentMonitor
from rl_compress.registry import COSTS
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.objective import Objective
from rl_compress.session import Session

NODES = 4
SLEEP_S = 0.2
JOB = {
    "name": "scale",
    "target": {"factory": "digits", "options": {"model": "cnn"}},
    "budget": {"macs": 0.5},
}
SLEEPING = {
    "name": "scale",
    "target": {"factory": "sleeping:sleeping", "options": {"sleep_s": SLEEP_S}},
    "budget": {"macs": 0.5},
    "search": {"num_cpus_per_env_runner": 1.0},
}
ALGORITHMS = ("ppo", "appo")

_ENDLESS = 10**9


class Sleeper:
    """Stands for an evaluator on a target that keeps no core busy."""

    def evaluate(self, _widths: Any, _rival: Any = None) -> Measurement:
        time.sleep(SLEEP_S)
        costs = dict.fromkeys(COSTS.built_in, 1.0)
        return Measurement(score=0.0, costs=costs, wall_s=SLEEP_S)


class Runner:
    """Does for an evaluation what an env runner does, but for the agent and the target."""

    def __init__(self, name: str, index: int) -> None:
        coordinator = ray.get_actor(name, namespace=NAMESPACE)
        task: Task = ray.get(coordinator.task.remote())
        self._space = task.problem.space
        self._random = np.random.default_rng(index)
        self._candidates = CandidateEvaluator(
            Sleeper(),  # type: ignore[arg-type]
            RemoteLedger(coordinator),
            self._space,
            task.reward,
            task.problem.identity,
            worker=index,
        )

    def run(self, seconds: float) -> tuple[int, float, float]:
        """Evaluate for a while; return evaluations, seconds, and seconds of processor time."""
        start, processor, count = time.monotonic(), time.process_time(), 0
        while (elapsed := time.monotonic() - start) < seconds:
            share = self._random.uniform(0.1, 1.0, len(self._space))
            self._candidates(self._space.nearest(share * self._space.full_amounts))
            count += 1
        return count, elapsed, time.process_time() - processor


def ledger(numbers: list[int], seconds: float) -> list[dict[str, float]]:
    """Measure coordinator and store with so many runners; print and return a row for each."""
    job = parse_job(JOB)
    session = Session(job, RunDirectory(Path()))
    session.prepare()
    rows = []
    for number in numbers:
        cpus = -(-number // NODES)
        with (
            Nodes(*[cpus] * NODES) as nodes,
            connected(nodes.address, number, 1),
            tempfile.TemporaryDirectory() as folder,
        ):
            rows.append(_ask(session, nodes, Path(folder), number, seconds))
        row = rows[-1]
        print(
            f"{number:2d} runners: {row['rate']:6.1f} evaluations/s, {row['of_ideal']:.1%} of the "
            f"ideal {row['ideal']:.0f}; processor time of an evaluation: coordinator "
            f"{row['coordinator_ms']:.2f} ms, runner {row['runner_ms']:.2f} ms",
            flush=True,
        )
    busy_ms = rows[-1]["coordinator_ms"]
    print(
        f"one coordinator on a core of its own answers {1e3 / busy_ms:.0f} evaluations/s; 1000 "
        f"runners keep it busy where an evaluation takes {busy_ms:.1f} s, and a tenth of the time "
        f"at {10 * busy_ms:.0f} s"
    )
    return rows


def _ask(
    session: Session, nodes: Nodes, folder: Path, number: int, seconds: float
) -> dict[str, float]:
    name, store = f"coordinator-{uuid.uuid4().hex}", EvaluationStore(folder)
    task = ray.put(_task(session))
    coordinator = start_coordinator(name, store, _ENDLESS, task, number)
    remote = ray.remote(Runner).options(num_cpus=1, scheduling_strategy="SPREAD")
    runners = [remote.remote(name, index) for index in range(1, number + 1)]
    ray.get([runner.run.remote(1.0) for runner in runners])
    (pid,) = nodes.coordinators()
    before, busy = len(store.read()), _processor_s(pid)
    found = ray.get([runner.run.remote(seconds) for runner in runners])
    busy = _processor_s(pid) - busy
    records = store.read()
    done = len(records) - before
    assert done == sum(count for count, _, _ in found), "an evaluation is not in the store"
    assert len({record.policy_id for record in records}) == len(records)
    for actor in (*runners, coordinator):
        ray.kill(actor)
    rate = sum(count / elapsed for count, elapsed, _ in found)
    return {
        "runners": number,
        "rate": rate,
        "ideal": number / SLEEP_S,
        "of_ideal": rate * SLEEP_S / number,
        "coordinator_ms": 1e3 * busy / done,
        "runner_ms": 1e3 * sum(processor for _, _, processor in found) / done,
    }


def _task(session: Session) -> Task:
    problem = session.problem
    return Task(
        problem=dataclasses.replace(problem, compressor=problem.compressor.without_weights()),
        settings=session.settings,
        reward=Objective(problem.objective, problem.original_costs),
        prior=None,
        reference_reward=0.0,
        original_reward=1.0,
    )


class Clock(SilentMonitor):
    """Notes how much processor time the driver took, and for how many evaluations."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def searched(self, progress: Progress) -> None:
        """Note where the search is."""
        self.points.append((progress.done, time.process_time()))


def search(numbers: list[int], seconds: float) -> list[dict[str, Any]]:
    """Measure whole searches with so many runners; print and return a row for each."""
    rows = []
    for number in numbers:
        cpus = -(-number // NODES)
        for algorithm in ALGORITHMS:
            with (
                Nodes(*[cpus] * NODES) as nodes,
                connected(nodes.address, number, 1),
                tempfile.TemporaryDirectory() as folder,
            ):
                rows.append(_search(algorithm, Path(folder), number, seconds))
            row = rows[-1]
            print(
                f"{algorithm:4s}, {number:2d} runners: {row['rate']:5.1f} evaluations/s, "
                f"{row['of_ideal']:.1%} of the ideal {row['ideal']:.1f}; an evaluation takes "
                f"{row['evaluation_ms']:.0f} ms, and {row['driver_ms']:.0f} ms of the driver's "
                f"processor time",
                flush=True,
            )
    return rows


def _search(algorithm: str, folder: Path, number: int, seconds: float) -> dict[str, Any]:
    changes = {
        "search.algorithm": algorithm,
        "search.num_env_runners": number,
        "search.evaluations": int(number * seconds / SLEEP_S),
    }
    job = parse_job(with_values(SLEEPING, changes))
    run, clock = RunDirectory(folder / "run"), Clock()
    run.create(job.to_yaml())
    session = Session(job, run, monitor=clock)
    session.prepare()
    session.search()
    records = [r for r in EvaluationStore(run.evaluations).read() if r.worker > 0]
    # All runners take part from the moment when the last of them does.
    begun = max(
        min(r.time for r in records if r.worker == worker) for worker in {r.worker for r in records}
    )
    times = [record.time for record in records if record.time >= begun]
    rate = (len(times) - 1) / (max(times) - begun).total_seconds()
    wall = float(np.median([record.wall_s for record in records]))
    first = next(point for point in clock.points if point[0] > len(records) - len(times))
    last = clock.points[-1]
    return {
        "algorithm": algorithm,
        "runners": number,
        "evaluations": len(records),
        "rate": rate,
        "ideal": number / wall,
        "of_ideal": rate * wall / number,
        "evaluation_ms": 1e3 * wall,
        "driver_ms": 1e3 * (last[1] - first[1]) / max(last[0] - first[0], 1),
    }


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for measure, numbers in ((ledger, [1, 4, 16, 64]), (search, [1, 2, 4, 8, 16])):
        added = commands.add_parser(measure.__name__)
        added.set_defaults(measure=measure)
        added.add_argument("--runners", type=int, nargs="+", default=numbers)
        added.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
        added.add_argument("--name", help="name of the result files; by default none is written")
    options = parser.parse_args()
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    rows = options.measure(options.runners, options.seconds)
    if options.name:
        found = {"environment": describe_environment(), "evaluation_s": SLEEP_S, "rows": rows}
        write_study(RESULTS / options.name, found)


if __name__ == "__main__":
    main()
