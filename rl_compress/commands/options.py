"""What several commands are given, and how a job is read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rl_compress.commands.failed import reported
from rl_compress.errors import ConfigError

if TYPE_CHECKING:
    from rl_compress.job import Job
    from rl_compress.report.live import ConsoleMonitor

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as search.evaluations=50."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Directory to write; must be new.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; by default RAY_ADDRESS, or a local one.")
]


@contextlib.contextmanager
def opened_job(job: Path, overrides: list[str] | None) -> Iterator[tuple[Job, ConsoleMonitor]]:
    """Lend a command its job and a monitor; see :func:`reported`."""
    with reported() as monitor:
        from rl_compress.job import load_job

        yield load_job(job, overrides or ()), monitor


def local(output: Path | None) -> Path | None:
    """Return an output that can only be local.

    Raises:
        ConfigError: It is a URI.
    """
    if output is not None and re.match(r"\w{2,}:/", str(output)):
        raise ConfigError(f"--output {output}: must be local here; only `search` takes a URI")
    return output
