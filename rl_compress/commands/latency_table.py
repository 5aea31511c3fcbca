"""Tables that latencies are predicted by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rl_compress.commands.options import JobFile, Overrides, local, opened_job


def latency_table(
    job: JobFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; by default in the cache."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Measure what the target's layers take on this machine, to predict latencies by."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress.inspection import measure_latency_table
        from rl_compress.report.latency_console import print_latency_table

        table, path = measure_latency_table(loaded, local(output), device=device, monitor=monitor)
        monitor.close()
        print_latency_table(table, path)
