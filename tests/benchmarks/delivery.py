"""What is delivered: test score, costs and file size against the uncompressed target, by seed.

    python tests/benchmarks/delivery.py tune_configs/digits.yaml --seeds 3 --name digits_delivery

A seed is that of the search and of fine-tuning; with ``--vary-target`` also the target's own (other
splits, other weights). Prints a line per seed and the median, and writes all as JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the runners share the machine

from figures import RESULTS, write_study

from rl_compress.execution import search
from rl_compress.job import load_job, parse_job
from rl_compress.runs.environment import describe_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--vary-target", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the job, key=value")
    parser.add_argument("--name", help="name of the result files; by default nothing is written")
    options = parser.parse_args()
    base = load_job(options.job, options.set)
    rows = []
    for seed in range(options.seeds):
        data = base.model_dump(mode="json")
        data["search"]["seed"] = data["finetuning"]["seed"] = seed
        if options.vary_target:
            data["target"]["options"]["seed"] = seed
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = search(parse_job(data), Path(folder) / "run")
            manifest = result.manifest
        assert manifest.scores is not None
        assert manifest.scores.test is not None
        test = manifest.scores.test
        costs = {name: cost.delivered / cost.original for name, cost in manifest.costs.items()}
        row = {
            "seed": seed,
            "test_original": test.original,
            "test_delivered": test.delivered,
            "test_change": test.delivered - test.original,
            "search_before_finetuning": manifest.scores.search.before_finetuning,
            **{f"{cost}_fraction": fraction for cost, fraction in costs.items()},
            "seconds": time.perf_counter() - start,
        }
        rows.append(row)
        print(
            f"seed {seed}: test {test.original:.2f} -> {test.delivered:.2f} "
            f"({row['test_change']:+.2f}), "
            + ", ".join(f"{cost} {fraction:.1%}" for cost, fraction in costs.items())
            + f", {row['seconds']:.0f} s",
            flush=True,
        )
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "seed"}
    print(f"median change of the test score: {median['test_change']:+.2f} points")
    if options.name:
        result_data = {
            "what": "delivered against uncompressed, by seed",
            "environment": describe_environment(),
            "job": base.model_dump(mode="json"),
            "rows": rows,
            "median": median,
        }
        write_study(RESULTS / options.name, result_data)


if __name__ == "__main__":
    main()
