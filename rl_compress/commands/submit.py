"""Searches on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rl_compress.commands.options import JobFile, Overrides, opened_job
from rl_compress.errors import ConfigError


def submit(
    job: JobFile,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The cluster's dashboard, as http://127.0.0.1:8265.",
        ),
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the log, and fetch the run at the end.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|URI",
            help="With --wait: directory for the run; must be new. A URI is the same as --storage.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URI",
            help="Keep the run there, on storage that all nodes share, and resume what is there.",
        ),
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="NAME",
            help="Name of the submission; one that exists is not submitted again.",
        ),
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option(
            help="File or folder to send along; weights and modules that the job names are."
        ),
    ] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option(help="What the cluster lacks: a requirement or a local wheel."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs of the driver.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of the driver.")] = 0.0,
    set_: Overrides = None,
) -> None:
    """Run `search` on a cluster, through Ray's Jobs API."""
    with opened_job(job, set_) as (loaded, _):
        from rl_compress.runs.remote import is_uri, shown
        from rl_compress.submission import submit as submission

        if output is not None and storage is None and is_uri(output):
            output, storage = None, output
        if output is not None and (not wait or storage is not None):
            raise ConfigError(
                "--output: is where --wait fetches a run that --storage does not keep; give --wait "
                "without --storage, or leave --output out"
            )
        directory = None
        if wait and not storage:
            directory = submission.free_directory(loaded, Path(output) if output else None)
        place = submission.Place(storage, include or (), pip or (), cpus, gpus)
        submitted = submission.submit(loaded, address, place, id_)
        typer.echo(f"{'submitted' if submitted.is_new else 'found'} {submitted.id}", err=True)
        if wait:
            submission.wait(submitted, directory, lambda piece: typer.echo(piece, nl=False))
            typer.echo(f"run directory: {directory or shown(storage or '')}", err=True)
        else:
            typer.echo(f"to wait for loaded, add: --wait --id {submitted.id}", err=True)
