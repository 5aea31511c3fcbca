"""One policy, carried out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

from rl_compress.commands.failed import reported
from rl_compress.commands.options import JobFile, Output, Overrides, local
from rl_compress.errors import ConfigError


def compress(
    job: JobFile,
    policy: Annotated[Path | None, typer.Option(help="A policy file (JSON).")] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="DIR|URI", help="A run whose best policy to take."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="COST=VALUE", help="With --run: instead of the job's budget."),
    ] = None,
    output: Output = None,
    set_: Overrides = None,
) -> None:
    """Carry out one policy physically, fine-tune and export."""
    with reported() as monitor:
        from rl_compress import execution
        from rl_compress.job import load_job
        from rl_compress.rebudget import load_for_budget, policy_of_run
        from rl_compress.remote_runs import fetched
        from rl_compress.report.console import print_result
        from rl_compress.runs.run_directory import RunDirectory
        from rl_compress.session import Session
        from rl_compress.space.compression_policy import CompressionPolicy

        loaded = load_for_budget(job, set_ or [], budget) if budget else load_job(job, set_ or ())
        if (policy is None) == (run is None):
            raise ConfigError("give either --policy FILE or --run DIR")
        directory = local(output) or Path("compressed") / loaded.name
        chosen: CompressionPolicy | Callable[[Session], CompressionPolicy]
        with contextlib.ExitStack() as stack:
            if run is None:
                chosen = CompressionPolicy.load(cast("Path", policy))
                pretraining = None
            else:
                place = RunDirectory(stack.enter_context(fetched(run)))
                if not (place.path / "space.json").exists():
                    raise ConfigError(f"--run {run}: there is no run (no space.json)")
                chosen = functools.partial(policy_of_run, run=place, other_budget=bool(budget))
                pretraining = place.pretraining
            manifest = execution.compress(
                loaded, chosen, directory, pretraining=pretraining, monitor=monitor
            )
        monitor.close()
        print_result(manifest.model_dump(mode="json"), directory, str(directory))
