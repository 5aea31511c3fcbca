"""The job file, for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    from rl_compress.job import Job

    typer.echo(json.dumps(Job.model_json_schema(), indent=2))
