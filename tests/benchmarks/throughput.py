"""Evaluations per second with one and with two env runners, as a ratio measured in one run.

    python tests/benchmarks/throughput.py --name throughput

The target is the digits ResNet, wide enough that one evaluation takes 100 ms or more on one core.
Both settings take turns, so that the noise of a shared machine hits both alike; start-up is left
out: a rate is counted from the first stored evaluation of an env runner to the last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the runners share the machine

from figures import RESULTS, write_study

from rl_compress.agent.rllib.cluster import connected
from rl_compress.job import parse_job
from rl_compress.runs.environment import describe_environment
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.session import Session

JOB = {
    "name": "throughput",
    "target": {
        "factory": "digits",
        "options": {"model": "resnet", "width": 64, "epochs": 1},
    },
    "budget": {"macs": 0.5},
    "search": {"prior": "none", "episode": "whole"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", help="name of the result files; by default nothing is written")
    options = parser.parse_args()
    base = parse_job(JOB)
    rates: dict[int, list[float]] = {1: [], 2: []}
    wall_s: list[float] = []
    with connected(None, 2, 1):
        for repeat in range(options.repeats):
            for runners in (1, 2):
                data = base.model_dump(mode="json")
                data["search"] |= {
                    "num_env_runners": runners,
                    "evaluations": options.evaluations,
                    "seed": repeat,
                }
                job = parse_job(data)
                with tempfile.TemporaryDirectory() as folder:
                    run = RunDirectory(Path(folder) / "run")
                    run.create(job.to_yaml())
                    session = Session(job, run)
                    session.prepare()
                    session.search()
                    records = EvaluationStore(run.evaluations).read()
                by_runners = [record for record in records if record.worker > 0]
                times = sorted(record.time for record in by_runners)
                seconds = (times[-1] - times[0]).total_seconds()
                rates[runners].append((len(times) - 1) / seconds)
                if runners == 1:
                    wall_s += [record.wall_s for record in by_runners]
                print(f"{runners} runner(s): {rates[runners][-1]:.2f} evaluations/s", flush=True)
    ratio = statistics.median(rates[2]) / statistics.median(rates[1])
    print(f"one evaluation takes {1e3 * statistics.median(wall_s):.0f} ms (median, one runner)")
    print(f"two runners give {ratio:.2f} x the evaluations/s of one")
    if options.name:
        result = {
            "what": "evaluations per second by number of env runners",
            "environment": describe_environment(),
            "job": base.model_dump(mode="json"),
            "evaluation_s": statistics.median(wall_s),
            "rows": [
                {"runners": runners, "evaluations_per_s": rate, "median": statistics.median(rate)}
                for runners, rate in rates.items()
            ],
            "ratio_of_medians": ratio,
        }
        write_study(RESULTS / options.name, result)


if __name__ == "__main__":
    main()
