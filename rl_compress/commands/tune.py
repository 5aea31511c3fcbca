"""Sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rl_compress.commands.options import Address, JobFile, Output, Overrides, local, opened_job


def tune(
    job: JobFile,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the sweep in --output.")
    ] = False,
    address: Address = None,
    set_: Overrides = None,
) -> None:
    """Run the job once for each combination of values in its `tune` section, on Ray Tune."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress.report.console import print_sweep
        from rl_compress.sweeps.sweep import tune as run_sweep

        directory = local(output) or Path("sweeps") / loaded.name
        result = run_sweep(loaded, directory, resume=resume, address=address, monitor=monitor)
        monitor.close()
        print_sweep(
            result.rows,
            result.best,
            list(loaded.tune.space),
            result.directory,
            statuses=result.statuses,
            measured=result.measured,
            cache_hits=result.cache_hits,
        )
