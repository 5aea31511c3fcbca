"""Reports of what has been run."""

from __future__ import annotations

from typing import Annotated

import typer

from rl_compress.commands.failed import reported


def report(
    directory: Annotated[
        str, typer.Argument(metavar="DIR|URI", help="The directory of a run or a sweep.")
    ],
) -> None:
    """Build report.html of a run or a sweep again."""
    with reported():
        from rl_compress.remote_runs import fetched, put
        from rl_compress.report.report import build_report
        from rl_compress.report.sweep_files import SWEEP_FILE
        from rl_compress.report.sweep_report import build_sweep_report
        from rl_compress.runs.remote import is_uri, shown

        with fetched(directory) as folder:
            is_sweep = (folder / SWEEP_FILE).exists()
            written = (build_sweep_report if is_sweep else build_report)(folder)
            if is_uri(directory):
                put(written, directory)
                typer.echo(f"wrote {shown(directory)}, {written.name}")
            else:
                typer.echo(f"wrote {written}")
