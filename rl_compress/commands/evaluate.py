"""One policy, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rl_compress.commands.options import JobFile, Overrides, opened_job


def evaluate(
    job: JobFile,
    policy: Annotated[Path, typer.Option(help="A policy file (JSON).")],
    split: Annotated[str, typer.Option(help="calibration, search or test.")] = "search",
    set_: Overrides = None,
) -> None:
    """Score and cost one policy, without fine-tuning."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress.inspection import evaluate_policy
        from rl_compress.report.console import print_evaluation
        from rl_compress.space.compression_policy import CompressionPolicy

        found = evaluate_policy(loaded, CompressionPolicy.load(policy), split, monitor=monitor)
        monitor.close()
        print_evaluation(found)
