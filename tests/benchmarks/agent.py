"""The search at scale: what proposals, resuming and memory cost as records grow.

    python tests/benchmarks/agent.py work --name agent_work
    python tests/benchmarks/agent.py speed --name agent_speed
    python tests/benchmarks/agent.py many --name agent_many

`work`: processor time of a proposal, of publishing a batch and of going on from the records, at 200
to 20 000 records, in one process: on a machine that others use too, it depends least on them.

`speed`: evaluations per second around 200 and around 5 000 records with two env runners, the time
that a proposal takes over the run, and, of a search killed at 100, 1 000 and 5 000 records, how
long `--resume` takes to its first new evaluation, against a fresh start's. For a quiet machine.

`many`: 20 000 evaluations with 16 runners, and the memory of coordinator, driver, runners and
report. For a quiet machine.

An evaluation sleeps for 13 ms and returns a made-up score, whose losses do not add up over the
dimensions; all else is what a search does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")])
    ),
}

import numpy as np
import ray
from figures import RESULTS, write_study
from sleeping_evaluations import SLEEP_S, TIMES, install, score_of

from rl_compress.agent.rllib.publication import Publication
from rl_compress.agent.task import Task
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.job import parse_job
from rl_compress.monitor import SilentMonitor
from rl_compress.report.report import build_report
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.known import Known
from rl_compress.searchers.prior import greedy_levels
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.screening import Screening
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.session import Session
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels

JOB: dict[str, Any] = {
    "name": "agent",
    "target": {"factory": "digits", "options": {"model": "cnn", "epochs": 1}},
    "budget": {"size_bytes": 0.1},
    "space": {"quantization": {"weight_bits": [2, 3, 4, 5, 6, 8]}},
}
KILLED_AT = (100, 1000, 5000)
WINDOW = 100
"""Records to each side of those that a rate is measured around."""


COUNTS = (100, 200, 256, 300, 1000, 5000, 20_000)
"""Records at which work is measured."""
PROPOSALS, BATCH = 15, 4


class Watch(SilentMonitor):
    """Does something once the search has come so far."""

    def __init__(self, done: Callable[[int], None]) -> None:
        self._done = done

    def searched(self, progress: Any) -> None:
        """Hear where the search is."""
        self._done(progress.done)


def search(folder: Path, evaluations: int, runners: int, done: Callable[[int], None]) -> None:
    """Search in a folder, or go on there, in this process."""
    install()
    ray.init(
        address="local",
        num_cpus=runners + 1,
        object_store_memory=512 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": "sleeping_evaluations.install"},
    )
    job = parse_job(
        JOB
        | {
            "search": {
                "evaluations": evaluations,
                "num_env_runners": runners,
                "num_cpus_per_env_runner": 0.5,
            }
        }
    )
    session = Session(job, RunDirectory(folder), monitor=Watch(done))
    session.prepare()
    session.run.create(job.to_yaml())
    session.search()
    ray.shutdown()


def work(_options: argparse.Namespace) -> dict[str, Any]:
    """Measure the processor time of what is done for each evaluation, and once on resuming."""
    session = Session(parse_job(JOB), RunDirectory(Path()))
    session.prepare()
    space, costs = session.problem.space, session.problem.costs
    names, decides = zip(*((d.site, d.decides) for d in space.dimensions), strict=True)
    amounts = tuple((d.full, d.amounts[0]) for d in space.dimensions)
    scores = tuple((0.0, -0.1 * (1 + index % 5)) for index in range(len(space)))
    curves = SensitivityCurves(names, amounts, scores, decides)
    problem = dataclasses.replace(session.problem, curves=curves)
    prior = greedy_levels(curves, problem.budget, space, costs)
    task = Task(
        problem=problem,
        settings=session.job.search,
        reward=lambda score, _costs: score,
        prior=prior,
        reference_reward=score_of(space, prior),
        original_reward=0.0,
    )
    rng, records, seen = np.random.default_rng(0), [], set()
    while len(records) < COUNTS[-1]:
        levels = project(rng.uniform(0.1, 1.0, len(space)), problem.budget, space, costs)
        if levels.tobytes() not in seen:
            seen.add(levels.tobytes())
            records.append(_record(len(records), problem, levels))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = EvaluationStore(Path(name) / "evaluations")
        for index, count in enumerate(COUNTS):
            for record in records[(0, *COUNTS)[index] : count]:
                store.append(record)
            rows.append({"records": count, **_work(task, records[:count], store)})
            print(rows[-1], flush=True)
        folder = Path(name)
        RunDirectory(folder).create(session.job.to_yaml())
        RunDirectory(folder).write_json("space.json", problem.describe_space())
        report_s = _seconds(lambda: build_report(folder))
        report_mb = (folder / "report.html").stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "what": "Processor time of a search's own work as records grow, evaluations left out: of a "
        "proposal, of letting out a batch of four (once for all workers; what they hear of it is "
        "`news`), of reading the records, and of learning from them again on resuming.",
        "report_s": report_s,
        "report_mb": report_mb,
        "peak_memory_mb": peak,
        "rows": rows,
    }


def _work(task: Task, records: list[Any], store: EvaluationStore) -> dict[str, float]:
    # What runners wait for before a batch: its records are let out, after those before.
    publication, problem = Publication(task), task.problem
    restored_s = _seconds(lambda: publication.restore(records[:-PROPOSALS]))
    let_out, sizes = [], []
    known, size, order, basis = Known(), 0, "", 0
    for start in range(len(records) - PROPOSALS, len(records), BATCH):
        for record in records[start : start + BATCH]:
            publication.note(record)
        let_out.append(_seconds(publication.let_out))
        news = publication.since(size, order, basis)
        sizes.append(len(pickle.dumps(news)))
        if not news.after:
            known = Known()
        known.add(news.levels, news.rewards)
        known.basis = news.basis or known.basis
        size, order = len(known), news.order
        basis = 0 if known.basis is None else known.basis.size
    assert problem.curves is not None
    screening = Screening(problem.space, problem.costs, problem.curves, task.original_reward)
    rng, taken = np.random.default_rng(0), []
    for _ in range(PROPOSALS):
        best, _ = known.best(problem.budget, problem.costs, 1)
        taken.append(_seconds(lambda at=best[0]: screening.improve(at, problem.budget, known, rng)))
        found = screening.improve(best[0], problem.budget, known, rng)
        known.add(found[None], np.array([score_of(problem.space, found)]))
    return {
        "proposal_ms": 1e3 * statistics.median(taken),
        "learned_from": len(screening._predictor.levels),
        "publication_ms": 1e3 * statistics.median(let_out),
        "news_kb": statistics.median(sizes[1:]) / 2**10,
        "read_s": _seconds(lambda: EvaluationLedger(store, 10**9)),
        "known_again_s": restored_s,
    }


def _record(number: int, problem: Problem, levels: Levels) -> EvaluationRecord:
    policy, score = problem.space.policy_of(levels), score_of(problem.space, levels)
    return EvaluationRecord(
        evaluation_id=number,
        **{"run": "agent", "trial": "", "worker": 1, "algorithm": "ppo", "seed": 0},
        **{"policy": policy.to_json(), "policy_id": policy.policy_id, "realised": policy.to_json()},
        costs=problem.costs.costs(levels),
        **{"score": score, "reward": score, "wall_s": SLEEP_S, "cached": False},
        time=datetime.now(UTC),
    )


def _seconds(act: Callable[[], Any]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def child(*arguments: object) -> float:
    """Run this file in a process of its own; return when it was started."""
    started = time.time()
    subprocess.run([sys.executable, __file__, *map(str, arguments)], check=False)
    return started


def killed(folder: Path, snapshots: Path) -> None:
    """Search, copy the run as a kill would leave it, and die at the last of the counts."""
    left = list(KILLED_AT)

    def done(count: int) -> None:
        while left and count >= left[0]:
            at = left.pop(0)
            shutil.copytree(folder, snapshots / str(at))
            print(f"  {count} records, load {os.getloadavg()[0]:.1f}", flush=True)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    search(folder, 20_000, 2, done)


def resumed(folder: Path) -> None:
    """Go on, and die when a new evaluation is there."""
    before = len(EvaluationStore(folder / "evaluations").read())

    def done(count: int) -> None:
        if count >= max(before, 3) + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    search(folder, 20_000, 2, done)


def speed(_options: argparse.Namespace) -> dict[str, Any]:
    """Measure rates, proposals and resuming."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (times := base / "times").mkdir()
        os.environ[TIMES] = str(times)
        child("killed", base / "run", base)
        proposals = [
            json.loads(line) for path in times.iterdir() for line in path.read_text().splitlines()
        ]
        os.environ.pop(TIMES)
        records = EvaluationStore(base / "5000" / "evaluations").read()
        rows = [_around(count, records, proposals) for count in (200, 1000, 3000, 4800)]
        for row in rows:
            print(row)
        fresh = _first_new(base / "fresh")
        resumes = [{"records": 0, "first_new_s": fresh}]
        for count in KILLED_AT:
            resumes.append({"records": count, "first_new_s": _first_new(base / str(count))})
            print(resumes[-1], flush=True)
    ratio = rows[-1]["evaluations_per_s"] / rows[0]["evaluations_per_s"]
    return {"ratio_of_rates": ratio, "over_the_run": rows, "resumed": resumes}


def _around(count: int, records: list[Any], proposals: list[Any]) -> dict[str, float]:
    times = sorted(record.time for record in records)[count - WINDOW : count + WINDOW]
    near = [one for one in proposals if abs(one[0] - count) <= WINDOW]
    return {
        "records": count,
        "evaluations_per_s": (len(times) - 1) / (times[-1] - times[0]).total_seconds(),
        "proposal_ms": 1e3 * statistics.median(one[1] for one in near),
        "proposal_processor_ms": 1e3 * statistics.median(one[2] for one in near),
        "learned_from": max(one[3] for one in near),
    }


def _first_new(folder: Path) -> float:
    before = {r.evaluation_id for r in EvaluationStore(folder / "evaluations").read()}
    started = child("resumed", folder)
    after = EvaluationStore(folder / "evaluations").read()
    new = [r.time.timestamp() for r in after if r.evaluation_id not in before and r.worker]
    return min(new) - started


def many(options: argparse.Namespace) -> dict[str, Any]:
    """Measure memory over a search of many evaluations, then resume and report."""
    import psutil

    rows: list[dict[str, float]] = []

    def done(count: int) -> None:
        if count >= (rows[-1]["records"] if rows else 0) + options.evaluations // 20:
            rows.append({"records": count, "time_s": time.monotonic() - start, **_memory(psutil)})
            print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name) / "run", time.monotonic()
        search(folder, options.evaluations, options.runners, done)
        took = time.monotonic() - start
        start = time.monotonic()
        search(folder, options.evaluations, options.runners, lambda _count: None)
        resume_s, start = time.monotonic() - start, time.monotonic()
        build_report(folder)
        return {
            "evaluations": options.evaluations,
            "runners": options.runners,
            "search_s": took,
            "resume_of_the_finished_s": resume_s,
            "report_s": time.monotonic() - start,
            "report_mb": (folder / "report.html").stat().st_size / 2**20,
            "driver_after_report_mb": psutil.Process().memory_full_info().uss / 2**20,
            "memory_mb": rows,
        }


def _memory(psutil: Any) -> dict[str, float]:
    own = psutil.Process()
    found = {"driver": own.memory_full_info().uss / 2**20, "coordinator": 0.0, "runner": 0.0}
    for process in psutil.process_iter(["cmdline", "environ"]):
        title = " ".join(process.info["cmdline"] or [])
        for part, mark in (("coordinator", "ray::Coordinator"), ("runner", "ray::SingleAgentEnv")):
            if title.startswith(mark):
                mb = process.memory_full_info().uss / 2**20
                found[part] = max(found[part], mb)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for measure in (work, speed, many):
        added = commands.add_parser(measure.__name__)
        added.set_defaults(measure=measure)
        added.add_argument("--name", help="name of the result files; by default none is written")
        if measure is many:
            added.add_argument("--evaluations", type=int, default=20_000)
            added.add_argument("--runners", type=int, default=16)
    for step in (killed, resumed):
        added = commands.add_parser(step.__name__)
        added.set_defaults(step=step)
        added.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    if hasattr(options, "step"):
        options.step(*options.folders)
        return
    found = options.measure(options)
    found = {"environment": describe_environment(), "job": JOB, **found}
    if options.name:
        write_study(RESULTS / options.name, found)
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
