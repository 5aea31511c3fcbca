"""The main command."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from rl_compress.commands.options import Address, JobFile, Overrides, opened_job
from rl_compress.errors import ConfigError

OutputOrURI = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR|URI",
        help="Directory to write, or s3://bucket/runs/name, or gs://…; must be new.",
    ),
]


def search(
    job: JobFile,
    output: OutputOrURI = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the job's run in --output, or its latest.")
    ] = False,
    if_changed: Annotated[
        bool,
        typer.Option(
            "--if-changed",
            help="Do nothing if package, job, model and data are those of the finished run in "
            "--output, or of the job's latest; else run afresh, and replace it at the end.",
        ),
    ] = False,
    address: Address = None,
    verify: Annotated[
        int,
        typer.Option(
            min=0, metavar="K", help="Fine-tune the K best candidates, to verify the search."
        ),
    ] = 0,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="Searches to compare with, by commas: baselines, or own as package.module:Class."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds to repeat the search and its baselines with.")
    ] = 1,
    set_: Overrides = None,
) -> None:
    """Search for the best policy, carry it out, fine-tune, deliver and report."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress import execution
        from rl_compress.comparison import Extras
        from rl_compress.report.console import print_result
        from rl_compress.scheduled import search_if_changed

        if resume and if_changed:
            raise ConfigError("--if-changed: begins afresh; leave it or --resume out")
        names = [] if baselines is None else [name.strip() for name in baselines.split(",")]
        monitor.budget = loaded.budget_in_words()
        start = (
            search_if_changed if if_changed else functools.partial(execution.search, resume=resume)
        )
        result = start(
            loaded,
            output,
            extras=Extras(verify, names, seeds),
            address=address,
            monitor=monitor,
        )
        monitor.close()
        if result is not None:
            print_result(result.manifest.model_dump(mode="json"), result.directory, result.location)
