"""`finetuned`: what the delivered model loses on the test split, before and after fine-tuning."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import read_study, write_study
from safetensors.torch import save

from rl_compress import execution
from rl_compress.runs.environment import describe_environment

from .subjects import Subjects, described

BUDGETS: dict[str, dict[str, Any]] = {
    # Trained at the rate of the original's own training, which brings pruned networks further than
    # a small one (Renda et al., "Comparing rewinding and fine-tuning", ICLR 2020), and as much on
    # labels as on the original's outputs, which are no better than the original.
    "half of the MACs": {
        "budget": {"macs": 0.5},
        "finetuning.batch_size": 128,
        "finetuning.learning_rate": 1e-2,
        "finetuning.weight_decay": 1e-3,
        "finetuning.distillation": 0.5,
    },
    # A little less than a tenth of the tensors' bytes, for the file has a header.
    "a file of a tenth": {"budget": {"size_bytes": 0.09}},
}

GOALS = {"half of the MACs": 0.0, "a file of a tenth": 0.5}
"""Points of test accuracy that may be lost."""

WHAT = "Test accuracy [%] of the delivered model, and bytes of its file, header included."

SMALLER = {"a file of a tenth": 10.0}
"""How many times smaller the file must be, header and all."""


def run(options: argparse.Namespace, subjects: Subjects, out: Path) -> None:
    """Search, fine-tune and deliver at each budget; print test scores and file sizes."""
    results = read_study(out / "finetuned") or {"what": WHAT, "rows": []}
    for target in options.targets:
        for title in options.budgets or BUDGETS:
            row = _deliver(options, subjects, target, BUDGETS[title])
            loss = row["test_original"] - row["test_delivered"]
            before = row["test_original"] - row["test_before_finetuning"]
            ratio = row["original_bytes"] / row["file_bytes"]
            met = loss <= GOALS[title] and ratio >= SMALLER.get(title, 0.0)
            print(
                f"{target}, {title}: test {row['test_original']:.2f} -> "
                f"{row['test_before_finetuning']:.2f} before fine-tuning, "
                f"{row['test_delivered']:.2f} after; loss {before:.2f} -> {loss:.2f} points; "
                + ", ".join(f"{cost} {part:.1%}" for cost, part in row["costs"].items())
                + f"; file {row['file_bytes']:,d} of {row['original_bytes']:,d} bytes "
                f"({ratio:.1f}x smaller); {row['seconds']:.0f} s; at most {GOALS[title]:g} points "
                f"lost: {'met' if met else 'not met'}",
                flush=True,
            )
            same = {"target": target, "what": title}
            others = [row for row in results["rows"] if not same.items() <= row.items()]
            results["rows"] = [*others, same | row]
            write_study(out / "finetuned", results)


def _deliver(
    options: argparse.Namespace, subjects: Subjects, target: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    job = subjects.job(
        target,
        {
            **overrides,
            "search.evaluations": options.evaluations,
            "search.num_env_runners": options.env_runners,
            "search.seed": options.first_seed,
            "finetuning.epochs": options.epochs,
        },
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = execution.search(job, Path(folder) / "run")
        seconds = time.perf_counter() - start
        session = subjects.prepared(job).session
        # Scored here, for only the delivered model is tested in a run.
        evaluator = session.evaluator()
        levels = session.problem.space.levels_of(result.best.realised_policy())
        before = session.target.score(evaluator.variant(levels), "test")
    manifest = result.manifest
    assert manifest.scores is not None
    assert manifest.scores.test is not None
    return {
        "test_original": manifest.scores.test.original,
        "test_before_finetuning": before,
        "test_delivered": manifest.scores.test.delivered,
        "evaluations": job.search.evaluations,
        "search_score": result.best.score,
        "costs": {name: cost.delivered / cost.original for name, cost in manifest.costs.items()},
        "file_bytes": manifest.files["model.safetensors"].bytes,
        # As a file too, so that both have a header.
        "original_bytes": len(save(session.model.state_dict())),
        "seconds": seconds,
        "environment": describe_environment(),
        "job": {section: described(job)[section] for section in ("target", "budget", "finetuning")},
    }
