"""`joint`: every algorithm on the joint search of pruning and bits, best score by evaluations."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from pathlib import Path

from safetensors.torch import save

from rl_compress.agent.rllib.cluster import connected

from .results import MARKS, TargetResults, verdict
from .searches import Searched, search
from .subjects import DETERMINISTIC, SUBJECT_SECTIONS, VARIANTS, Subjects, described


def run(options: argparse.Namespace, subjects: Subjects, out: Path) -> None:
    """Run what is not in the files yet; print a line per run, and verdicts."""
    with contextlib.ExitStack() as ray:
        for target in options.targets:
            results = TargetResults(out, target)
            results.forget([name for name in options.again if name in options.algorithms])
            for name in options.algorithms:
                _run_variant(options, subjects, results, name, ray)
            print(verdict(target, results.rows()), flush=True)


def _run_variant(
    options: argparse.Namespace,
    subjects: Subjects,
    results: TargetResults,
    name: str,
    ray: contextlib.ExitStack,
) -> None:
    variant = VARIANTS[name]
    first = options.first_seed
    count = 1 if name in DETERMINISTIC else options.seeds
    for seed in range(first, first + count):
        overrides = {
            "search.num_env_runners": options.env_runners,
            **variant.overrides,
            "search.seed": seed,
        }
        job = subjects.job(results.target, overrides)
        usual = options.rl_evaluations if job.search.learns else options.evaluations
        evaluations = variant.evaluations or usual
        job.search.evaluations = evaluations
        if results.has(name, seed, evaluations):
            continue
        data = described(job)
        # A variant may change the subject too; what it is compared on is the budget and the score.
        common = ("target", "budget", "objective", "evaluation")
        assert set(common) < set(SUBJECT_SECTIONS)
        prepared = subjects.prepared(job)
        # Weights that were trained on another processor are another target.
        weights = save(prepared.session.model.state_dict())
        shared = {section: data[section] for section in common}
        shared["weights"] = hashlib.sha256(weights).hexdigest()
        results.check(shared)
        if job.search.learns:
            # Started by the first that needs it, then kept.
            ray.enter_context(connected(None, options.env_runners, 1))
        done = search(prepared, job)
        row = {"search": name, "seed": seed, **_row(done, evaluations)}
        results.add(row, job=shared, overrides=variant.overrides)
        print(_line(results.target, name, seed, done, evaluations), flush=True)


def _row(done: Searched, evaluations: int) -> dict[str, object]:
    marks = sorted({mark for mark in MARKS if mark < evaluations} | {evaluations})
    return {
        "asked": evaluations,
        "evaluations": len(done.records),
        "ended_early": done.reason,
        "curve_evaluations": done.curve_evaluations,
        "seconds": round(done.seconds, 2),
        "best": {str(mark): round(done.best_at(mark), 7) for mark in marks},
    }


def _line(target: str, name: str, seed: int, done: Searched, evaluations: int) -> str:
    per_evaluation = 1e3 * done.evaluation_s / len(done.records)
    early = f"; ended early: {done.reason}" if done.reason else ""
    return (
        f"{target} {name} seed {seed}: {done.best_at(evaluations):.4f} after "
        f"{len(done.records)} evaluations of {per_evaluation:.0f} ms, {done.seconds:.0f} s{early}"
    )
