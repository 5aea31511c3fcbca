"""Curves of single dimensions, and attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rl_compress.commands.options import JobFile, Output, Overrides, local, opened_job
from rl_compress.errors import ConfigError


def sensitivity(
    job: JobFile,
    output: Output = None,
    attack: Annotated[
        bool,
        typer.Option("--attack", help="Flip bits, zero layers and perturb inputs instead."),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(help="With --attack: a run whose delivered model is attacked too."),
    ] = None,
    set_: Overrides = None,
) -> None:
    """Measure what pruning each group alone does to the score; print a table, save a plot."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress.inspection import map_attacks, measure_curves
        from rl_compress.report.console import print_sensitivity
        from rl_compress.report.vulnerability_console import print_vulnerability

        if run is not None and not attack:
            raise ConfigError("--run: is for --attack; add that, or leave it out")
        directory = local(output) or Path("sensitivity") / loaded.name
        if attack:
            before, after = map_attacks(loaded, directory, run=run, monitor=monitor)
            monitor.close()
            print_vulnerability(before, after, directory)
            return
        curves = measure_curves(loaded, directory, monitor=monitor)
        monitor.close()
        print_sensitivity(curves, directory)
