"""Best score after N evaluations, for every algorithm under the same conditions.

Prints the table and writes it, with hardware, versions and configuration, as JSON:

    python tests/benchmarks/search_quality.py --seeds 5 --evaluations 100

Every algorithm searches the same target under the same budget, is scored by the same evaluator, and
makes the same number of evaluations. The sensitivity curves that `ppo` and `greedy` start from are
measured beforehand; what they cost is printed, and the baselines' scores are also shown at their
evaluations plus those (`+curves`), so that nobody is given anything for free.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the runners share the machine

from rl_compress.job import Job, load_job, parse_job
from rl_compress.results.environment import describe_environment
from rl_compress.results.run_directory import RunDirectory
from rl_compress.results.store import EvaluationStore
from rl_compress.run import make_task
from rl_compress.search.preparation import Subject, prepare
from rl_compress.search.rllib.cluster import connected
from rl_compress.search.sensitivity import allowance

RESULTS = Path(__file__).parent / "results"
VARIANTS = {
    "uniform": {"algorithm": "uniform"},
    "random": {"algorithm": "random"},
    "greedy": {"algorithm": "greedy"},
    "evolution": {"algorithm": "evolution"},
    "greedy_evolution": {"algorithm": "greedy_evolution"},
    "tpe": {"algorithm": "tpe"},
    "cmaes": {"algorithm": "cmaes"},
    "ppo": {"algorithm": "ppo"},
    "ppo, layerwise": {"algorithm": "ppo", "episode": "layerwise"},
    "ppo, no prior": {"algorithm": "ppo", "prior": "none"},
    "appo": {"algorithm": "appo"},
    "sac": {"algorithm": "sac"},
    "tqc": {"algorithm": "tqc"},
    # As published but for the agent, which was DDPG; see tune_configs/amc.yaml.
    "AMC with TQC": {
        "algorithm": "tqc",
        "prior": "none",
        "episode": "layerwise",
        "budget_handling": "clip",
        "tqc": {"warmup_episodes": 100},
    },
}
WITH_CURVES = ("greedy", "greedy_evolution", "ppo", "ppo, layerwise", "appo", "sac", "tqc")


def best_so_far(job: Job, subject: Subject, curves: Path | None) -> list[float]:
    """Search once; return the best score after each evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "run")
        run.create(job.to_yaml())
        if curves is not None and curves.exists():
            run.sensitivity.write_bytes(curves.read_bytes())
        make_task(job, subject, run).search_for_policy()
        if curves is not None and run.sensitivity.exists():
            curves.write_bytes(run.sensitivity.read_bytes())
        scores = [record.score for record in EvaluationStore(run.evaluations).read()]
    return np.maximum.accumulate(scores).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", default="tune_configs/digits.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--algorithms", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--set", nargs="*", default=[], help="changes of the job, key=value")
    parser.add_argument("--name", help="name of the result file; by default nothing is written")
    options = parser.parse_args()

    base = load_job(options.job, options.set)
    subject = prepare(base.target, base.space, base.budget)
    space = subject.compressor.space
    curve_evaluations = allowance(space, base.search.sensitivity_levels)
    most = options.evaluations + curve_evaluations
    marks = [n for n in (25, 50, 100, 100 + curve_evaluations, 200, 300) if n <= most]
    table: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, connected(None, base.search.num_env_runners, 1):
        curves = Path(folder) / "curves.parquet"
        for name in options.algorithms:
            changes = VARIANTS[name]
            start = time.perf_counter()
            at: dict[str, list[float]] = {str(n): [] for n in marks}
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                # Algorithms without curves get the evaluations that the curves cost on top.
                learns = name in WITH_CURVES
                data = base.model_dump(mode="json")
                evaluations = options.evaluations if learns else most
                data["search"] |= changes | {"seed": seed, "evaluations": evaluations}
                scores = best_so_far(parse_job(data), subject, curves if learns else None)
                for n in marks:
                    if n <= evaluations:
                        at[str(n)].append(scores[min(n, len(scores)) - 1])
            table[name] = at
            cells = [f"{n}: {np.mean(v):.4f} ± {np.std(v):.4f}" for n, v in at.items() if v]
            seconds = time.perf_counter() - start
            print(f"{name:14s}", "   ".join(cells), f"  ({seconds:.0f} s)", flush=True)
    print(f"the curves that some start from took {curve_evaluations} evaluations on top")
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{date.today().isoformat()}-{options.name}.json"
        result = {
            "what": f"best {base.objective.score} after N evaluations, by algorithm and seed",
            "environment": describe_environment(),
            "curve_evaluations": curve_evaluations,
            "first_seed": options.first_seed,
            "seeds": options.seeds,
            "job": base.model_dump(mode="json"),
            "scores": table,
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
