"""The key figures of a run for other programs: ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_compress.evaluation.ledger import Progress
from rl_compress.report.comparison import contenders, count_sensitivity_evaluations
from rl_compress.report.run_files import RunFiles
from rl_compress.report.verification import better_than_delivered, rank_correlation
from rl_compress.runs.record import EvaluationRecord

SUMMARY_VERSION = 1


def summarize(files: RunFiles, progress: Progress) -> dict[str, Any]:
    """Return a finished run's key figures as plain data.

    Args:
        files: The run.
        progress: Of the search; its cache hits are of the process that ended it, and include what a
            resumed search asked for again.
    """
    best, manifest = progress.best, files.manifest
    better = better_than_delivered(files.verification)
    return {
        "summary_version": SUMMARY_VERSION,
        "name": files.job.get("name"),
        "best": best
        and {
            "policy_id": best.policy_id,
            "evaluation_id": best.evaluation_id,
            "algorithm": best.algorithm,
            "seed": best.seed,
            "score": best.score,
            "reward": best.reward,
            "costs": best.costs,
        },
        "delivered": manifest
        and {
            "policy_id": manifest["policy_id"],
            "costs": manifest["costs"],
            "scores": manifest["scores"],
            "latency_ms": manifest["latency_ms"],
        },
        "evaluations": progress.done,
        "cache_hits": progress.cache_hits,
        "dropped": dropped_early(files.evaluations),
        "samples_saved": samples_saved(files.evaluations),
        "failures": progress.failures,
        "lost": progress.lost,
        "retried": progress.retried,
        "sensitivity_evaluations": count_sensitivity_evaluations(files.sensitivity),
        "verification": {
            "candidates": len(files.verification),
            "spearman": rank_correlation(files.verification),
            "better_than_delivered": better and better.policy_id,
        }
        if files.verification
        else None,
        # The best reward at as many evaluations as the search made, over the seeds.
        "compared": {
            one.algorithm: {
                "seeds": len(one.best),
                "mean": float(np.mean(values := one.after(progress.done)[0])),
                "lowest": float(values.min()),
                "highest": float(values.max()),
                "evaluations": one.after(progress.done)[1],
                "sensitivity_evaluations": one.sensitivity_evaluations,
            }
            for one in (contenders(files) if files.beside else [])
        },
    }


def dropped_early(records: Sequence[EvaluationRecord]) -> int:
    """Return how many variants were dropped before they were scored in full."""
    return sum(not record.scored_in_full for record in records)


def samples_saved(records: Sequence[EvaluationRecord]) -> float:
    """Return the share of the samples of all evaluations that was not scored, 0 to 1."""
    return sum(1.0 - record.scored_share for record in records) / max(len(records), 1)
