"""The command line. Exit codes: 0 done, 1 the run failed or was interrupted, 2 bad input."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rl_compress.errors import ConfigError
from rl_compress.failed import reported
from rl_compress.logs import configure

if TYPE_CHECKING:
    from rl_compress.job import Job

# Heavy packages (torch, ray) are imported inside the commands: `--help` must answer at once.

app = typer.Typer(
    name="rl-compress",
    help="Find by reinforcement learning how much to prune each layer of a PyTorch model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as search.evaluations=50."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Directory to write; must be new.")
]
OutputOrURI = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR|URI",
        help="Directory to write, or s3://bucket/runs/name, or gs://…; must be new.",
    ),
]


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


@app.command()
def check(job: JobFile, set_: Overrides = None) -> None:
    """Validate a job, build its target, show groups and costs, and try the budget."""
    with reported() as monitor:
        from rl_compress.report.console import print_check
        from rl_compress.session import check as check_job

        loaded = _load(job, set_)
        subject = check_job(loaded, monitor=monitor)
        monitor.close()
        print_check(loaded.name, subject.describe_space(), subject.soundness)


@app.command()
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
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; by default RAY_ADDRESS, or a local one.")
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            min=0, metavar="K", help="Fine-tune the K best candidates, to verify the search."
        ),
    ] = 0,
    baselines: Annotated[
        str | None,
        typer.Option(help="Searches to compare with: names of baselines, separated by commas."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds to repeat the search and its baselines with.")
    ] = 1,
    set_: Overrides = None,
) -> None:
    """Search for the best policy, carry it out, fine-tune, deliver and report."""
    with reported() as monitor:
        from rl_compress import session
        from rl_compress.report.console import print_result
        from rl_compress.scheduled import search_if_changed

        loaded = _load(job, set_)
        if resume and if_changed:
            raise ConfigError("--if-changed: begins afresh; leave it or --resume out")
        monitor.budget = loaded.budget_in_words()
        start = (
            search_if_changed if if_changed else functools.partial(session.search, resume=resume)
        )
        result = start(
            loaded,
            output,
            address=address,
            verify=verify,
            baselines=[] if baselines is None else [n.strip() for n in baselines.split(",")],
            seeds=seeds,
            monitor=monitor,
        )
        monitor.close()
        if result is not None:
            print_result(result.manifest.model_dump(mode="json"), result.directory, result.location)


@app.command()
def tune(
    job: JobFile,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the sweep in --output.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; by default RAY_ADDRESS, or a local one.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Run the job once for each combination of values in its `tune` section, on Ray Tune."""
    with reported() as monitor:
        from rl_compress.report.console import print_sweep
        from rl_compress.sweeps.sweep import tune as run_sweep

        loaded = _load(job, set_)
        directory = _local(output) or Path("sweeps") / loaded.name
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


@app.command()
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
    with reported() as monitor:
        from rl_compress.inspection import map_attacks, measure_curves
        from rl_compress.report.console import print_sensitivity
        from rl_compress.report.vulnerability_console import print_vulnerability

        loaded = _load(job, set_)
        if run is not None and not attack:
            raise ConfigError("--run: is for --attack; add that, or leave it out")
        directory = _local(output) or Path("sensitivity") / loaded.name
        if attack:
            before, after = map_attacks(loaded, directory, run=run, monitor=monitor)
            monitor.close()
            print_vulnerability(before, after, directory)
            return
        curves = measure_curves(loaded, directory, monitor=monitor)
        monitor.close()
        print_sensitivity(curves, directory)


@app.command("latency-table")
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
    with reported() as monitor:
        from rl_compress.inspection import measure_latency_table
        from rl_compress.report.latency_console import print_latency_table

        loaded = _load(job, set_)
        table, path = measure_latency_table(loaded, _local(output), device=device, monitor=monitor)
        monitor.close()
        print_latency_table(table, path)


@app.command()
def evaluate(
    job: JobFile,
    policy: Annotated[Path, typer.Option(help="A policy file (JSON).")],
    split: Annotated[str, typer.Option(help="calibration, search or test.")] = "search",
    set_: Overrides = None,
) -> None:
    """Score and cost one policy, without fine-tuning."""
    with reported() as monitor:
        from rl_compress.inspection import evaluate_policy
        from rl_compress.report.console import print_evaluation
        from rl_compress.space.compression_policy import CompressionPolicy

        loaded = _load(job, set_)
        found = evaluate_policy(loaded, CompressionPolicy.load(policy), split, monitor=monitor)
        monitor.close()
        print_evaluation(found)


@app.command()
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
        from rl_compress import session
        from rl_compress.rebudget import load_for_budget, policy_of_run
        from rl_compress.remote_runs import fetched
        from rl_compress.report.console import print_result
        from rl_compress.space.compression_policy import CompressionPolicy

        loaded = load_for_budget(job, set_ or [], budget) if budget else _load(job, set_)
        if (policy is None) == (run is None):
            raise ConfigError("give either --policy FILE or --run DIR")
        directory = _local(output) or Path("compressed") / loaded.name
        with contextlib.ExitStack() as stack:
            pretraining = None
            if policy is not None:
                chosen = CompressionPolicy.load(policy)
            elif run is not None:
                folder = stack.enter_context(fetched(run))
                pretraining = folder / "pretraining"
                chosen = policy_of_run(loaded, folder, monitor, other_budget=bool(budget))
            manifest = session.compress(
                loaded, chosen, directory, pretraining=pretraining, monitor=monitor
            )
        monitor.close()
        print_result(manifest.model_dump(mode="json"), directory, str(directory))


@app.command()
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


@app.command()
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
        typer.Option(help="File or folder to send along; the target's module and weights are."),
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
    with reported():
        from rl_compress.runs.remote import is_uri, shown
        from rl_compress.submission import submit as submission

        loaded = _load(job, set_)
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
            typer.echo(f"to wait for it, add: --wait --id {submitted.id}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    import json

    from rl_compress.job import Job

    typer.echo(json.dumps(Job.model_json_schema(), indent=2))


def _load(path: Path, overrides: list[str] | None) -> Job:
    from rl_compress.job import load_job

    return load_job(path, overrides or ())


def _local(output: Path | None) -> Path | None:
    """Return an output that can only be local.

    Raises:
        ConfigError: It is a URI.
    """
    if output is not None and re.match(r"\w{2,}:/", str(output)):
        raise ConfigError(f"--output {output}: must be local here; only `search` takes a URI")
    return output


if __name__ == "__main__":
    app()
