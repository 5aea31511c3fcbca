"""The command line. Exit codes: 0 done, 1 the run failed or was interrupted, 2 bad input."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated, Literal

import typer

from rl_compress.commands.check import check
from rl_compress.commands.compress import compress
from rl_compress.commands.evaluate import evaluate
from rl_compress.commands.latency_table import latency_table
from rl_compress.commands.report import report
from rl_compress.commands.schema import schema
from rl_compress.commands.search import search
from rl_compress.commands.sensitivity import sensitivity
from rl_compress.commands.submit import submit
from rl_compress.commands.tune import tune
from rl_compress.logs import configure

_COMMANDS = (
    check,
    search,
    tune,
    sensitivity,
    latency_table,
    evaluate,
    compress,
    report,
    submit,
    schema,
)

app = typer.Typer(
    name="rl-compress",
    help="Find by reinforcement learning how much to prune each layer of a PyTorch model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(help="Log lines for people, or a JSON object each for programs."),
    ] = "text",
) -> None:
    configure(logging.INFO if verbose else logging.WARNING, log_format)
    # A terminal that lacks a character gets a mark in its place.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


for _command in _COMMANDS:
    app.command()(_command)


if __name__ == "__main__":
    app()
