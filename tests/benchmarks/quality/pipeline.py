"""`pipeline`: the joint search against pruning and quantizing one after the other.

All reach the same size with the same number of evaluations. A pipeline spends half of them on each
stage; what its first stage leaves to the second is not known in advance, so several splits are run,
each with the full number of evaluations. The joint search is compared with each pipeline's best
split, which favours the pipeline (it cost as many times the evaluations as there are splits), and
with the mean of its splits, which is what a split chosen blindly can expect.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import read_study, write_study

from rl_compress.agent.rllib.cluster import connected
from rl_compress.errors import InfeasibleBudgetError
from rl_compress.runs.environment import describe_environment
from rl_compress.space.budget import Budget

from .part import Part
from .searches import search
from .statistics import Spread, compare
from .subjects import JOINT_BUDGET, Prepared, Subjects, described

SPLITS = (4.0, 5.0, 6.0, 8.0)
"""Bits per weight that the budget is split by: the quantization's share is bits / 32, and the
pruning's is the rest of the way to the size."""

Stages = Callable[[Prepared, str, float, int, int], tuple[float, float, int]]
"""``(prepared, algorithm, bits, seed, evaluations) -> (score, size, evaluations)``, the size as a
fraction of the uncompressed one."""


def run(options: argparse.Namespace, subjects: Subjects, out: Path) -> None:
    """Compare on each target; print a line per method, and the verdict."""
    results = read_study(out / "pipeline")
    for target in options.targets:
        job = subjects.job(target, {})
        prepared = subjects.prepared(job)
        rows: dict[str, list[float]] = {}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name in dict.fromkeys([options.algorithm, *([] if options.no_rl else ["ppo"])]):
                rows.setdefault(f"joint, {name}", []).append(
                    _joint(options, subjects, target, name, seed)
                )
            for name, stages in PIPELINES.items():
                for bits in SPLITS:
                    try:
                        score, size, made = stages(
                            prepared, options.algorithm, bits, seed, options.evaluations
                        )
                    except InfeasibleBudgetError as error:
                        print(f"{target} {name}, {bits:g} bits: left out ({error})")
                        continue
                    label = f"{name}, {bits:g} bits"
                    rows.setdefault(label, []).append(score)
                    print(
                        f"{target} {label}, seed {seed}: {score:.4f} at {size:.2%} of the size, "
                        f"{made} evaluations",
                        flush=True,
                    )
        results[target] = _report(target, rows, options) | {
            "environment": describe_environment(),
            "job": described(job),
            "stages": options.algorithm,
            "evaluations": options.evaluations,
            "first_seed": options.first_seed,
        }
        write_study(out / "pipeline", results)


def _joint(
    options: argparse.Namespace, subjects: Subjects, target: str, name: str, seed: int
) -> float:
    changes = {"algorithm": name, "seed": seed, "num_env_runners": options.env_runners}
    changes["evaluations"] = options.evaluations
    job = subjects.job(target, {f"search.{key}": value for key, value in changes.items()})
    prepared = subjects.prepared(job)
    with connected(None, options.env_runners, 1):
        done = search(prepared, job)
    best = done.best_at(options.evaluations)
    print(f"{target} joint, {name}, seed {seed}: {best:.4f}, {len(done.records)} evaluations")
    return best


def _prune_then_quantize(
    prepared: Prepared, algorithm: str, bits: float, seed: int, evaluations: int
) -> tuple[float, float, int]:
    """Prune to a number of parameters, weights at their most bits, then search the bits."""
    original = prepared.problem.original_costs
    fraction = min(1.0, JOINT_BUDGET["size_bytes"] * 32.0 / bits)
    budget = Budget.parse({"params": fraction}, original)
    return _staged(prepared, algorithm, budget, seed, evaluations, prune_first=True)


def _quantize_then_prune(
    prepared: Prepared, algorithm: str, bits: float, seed: int, evaluations: int
) -> tuple[float, float, int]:
    """Search the bits at full width, then prune what is left to reach the size."""
    original = prepared.problem.original_costs
    budget = Budget.parse({"size_bytes": bits / 32.0}, original)
    return _staged(prepared, algorithm, budget, seed, evaluations, prune_first=False)


def _staged(
    prepared: Prepared,
    algorithm: str,
    first: Budget,
    seed: int,
    evaluations: int,
    *,
    prune_first: bool,
) -> tuple[float, float, int]:
    problem, half = prepared.problem, evaluations // 2
    space = problem.space
    decided = space.prunes if prune_first else ~space.prunes
    start = Part(prepared, decided, space.full)
    between, _, made = start.search(algorithm, first, seed, half)
    # What the first stage saves goes to the second.
    rest = Part(prepared, ~decided, between)
    best, score, more = rest.search(algorithm, problem.budget, seed, evaluations - made)
    size = problem.costs.costs(best)["size_bytes"]
    return score, size / problem.original_costs["size_bytes"], made + more


PIPELINES: dict[str, Stages] = {
    "prune, then quantize": _prune_then_quantize,
    "quantize, then prune": _quantize_then_prune,
}


def _report(
    target: str, rows: dict[str, list[float]], options: argparse.Namespace
) -> dict[str, object]:
    spreads = {name: Spread.of(scores) for name, scores in rows.items()}
    for name, spread in spreads.items():
        print(f"{target} {name}: {spread}")
    verdicts = []
    for joint in (name for name in rows if name.startswith("joint")):
        for pipeline in PIPELINES:
            splits = [name for name in rows if name.startswith(pipeline)]
            if not splits:
                continue
            best = max(splits, key=lambda name: spreads[name].mean)
            average = Spread.of(np.mean([rows[name] for name in splits], axis=0).tolist())
            for title, theirs in (
                (f"{best} (the best of {len(splits)} splits)", spreads[best]),
                (f"{pipeline}, mean of {len(splits)} splits", average),
            ):
                verdicts.append(
                    f"{target}: {joint} ({spreads[joint]}) against {title} ({theirs}), "
                    f"{options.evaluations} evaluations each; {compare(spreads[joint], theirs)}"
                )
                print(verdicts[-1], flush=True)
    table = [
        {"search": name, "seeds": len(scores), "best": str(spreads[name]), "scores": scores}
        for name, scores in rows.items()
    ]
    return {"rows": table, "verdicts": verdicts}
