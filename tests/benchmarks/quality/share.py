"""`share`: how much of an env runner's time goes into evaluations, where these are slow."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from figures import read_study, write_study

from rl_compress.agent.rllib.cluster import connected
from rl_compress.runs.environment import describe_environment

from .searches import search
from .subjects import Subjects, described

WHAT = "Share of one env runner's time that goes into evaluations, each run beside those before."
GOAL = 0.8
SLOW_MS = 100.0
"""Evaluations that are faster than this say nothing about the goal."""


def run(options: argparse.Namespace, subjects: Subjects, out: Path) -> None:
    """Search with PPO and one env runner on each target; print the share of its time."""
    results = read_study(out / "share") or {"what": WHAT, "rows": []}
    for target in options.targets:
        job = subjects.job(
            target,
            {
                "search.algorithm": "ppo",
                "search.num_env_runners": 1,
                "search.evaluations": options.evaluations,
                "search.seed": options.first_seed,
            },
        )
        with connected(None, 1, 1):
            done = search(subjects.prepared(job), job)
        records = sorted((r for r in done.records if r.worker > 0), key=lambda r: r.time)
        evaluating = sum(record.wall_s for record in records)
        # A record's time is that of its evaluation's end.
        elapsed = (records[-1].time - records[0].time).total_seconds() + records[0].wall_s
        share = evaluating / elapsed
        ms = 1e3 * float(np.median([record.wall_s for record in records]))
        if ms < SLOW_MS:
            verdict = f"no verdict, evaluations take under {SLOW_MS:g} ms"
        else:
            verdict = "met" if share >= GOAL else "not met"
        print(
            f"{target}: {share:.1%} of the env runner's {elapsed:.1f} s went into its "
            f"{len(records)} evaluations of {ms:.0f} ms (median); at least {GOAL:.0%}: {verdict}",
            flush=True,
        )
        results["environment"] = describe_environment()
        # Of all targets the same but for what is compressed.
        results["job"] = {**described(job), "target": None}
        row = {
            "target": target,
            "run": sum(row["target"] == target for row in results["rows"]),
            "share": share,
            "elapsed_s": elapsed,
            "evaluations": len(records),
            "median_ms": ms,
            "verdict": verdict,
        }
        results["rows"].append(row)
        write_study(out / "share", results)
