"""Runs that a scheduler starts again and again: one is made only if something has changed.

An older run stays in its directory until the new one has succeeded: that one is made beside it, in
``DIR.new``, takes its place at the end, and leaves it as ``DIR.previous``. A run that fails leaves
``DIR.new``, which the next one begins afresh.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rl_compress.errors import RunDirectoryError
from rl_compress.job import Job
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.results.run_directory import NEW, RunDirectory
from rl_compress.run import RUNS, RunResult, asked_for, search
from rl_compress.targets.factory import build_model, make_target
from rl_compress.targets.fingerprint import (
    Fingerprint,
    fingerprint_of_job,
    fingerprint_of_target,
)


def search_if_changed(
    job: Job,
    output: str | Path | None = None,
    *,
    address: str | None = None,
    verify: int = 0,
    baselines: Sequence[str] = (),
    seeds: int = 1,
    monitor: Monitor | None = None,
) -> RunResult | None:
    """Search as :func:`rl_compress.run.search` does, unless that has been done.

    Args:
        job: What to compress, and how far.
        output: The run directory, new or with an older run, of this job or another; by default the
            job's latest finished run counts, and a new one goes to ``runs/<name>/<time>``.
        address: A Ray cluster; by default a local one is started.
        verify: See :func:`rl_compress.run.search`, as for the next two.
        baselines: Searches to compare with.
        seeds: Seeds to repeat them with.
        monitor: Hears of progress.

    Returns:
        The new run, or None if package, job, model and data are those of the older run.

    Raises:
        RLCompressError: Bad input, or a run that failed.
    """
    monitor = monitor or SilentMonitor()
    path = None if output is None else Path(output)
    beside = None if path is None else path.with_name(path.name + NEW)
    if path is not None and beside is not None and _is_left_over(path, beside):
        beside.rename(path)
    older = _latest(job) if path is None else RunDirectory(path)
    if older is not None and older.is_finished:
        changed = _changes(
            older, job, asked_for(job, verify=verify, baselines=baselines, seeds=seeds)
        )
        if not changed:
            monitor.say(f"unchanged since the run in {older.path}: nothing to do")
            return None
        monitor.say(f"changed since the run in {older.path}: {', '.join(changed)}")
    run = functools.partial(
        search,
        job,
        address=address,
        verify=verify,
        baselines=baselines,
        seeds=seeds,
        monitor=monitor,
    )
    if path is None or beside is None or not (path / "job.yaml").exists():
        return run(path)
    _clear(beside)
    result = run(beside)
    replaced = path.with_name(f"{path.name}.previous")
    _clear(replaced)
    path.rename(replaced)
    beside.rename(path)
    monitor.say(f"the new run is now in {path}, the older one in {replaced}")
    return RunResult(path, result.best, result.manifest)


def _latest(job: Job) -> RunDirectory | None:
    """Return the latest finished run of a job that was given no directory."""
    runs = [RunDirectory(path) for path in sorted((RUNS / job.name).glob("*"))]
    return next((run for run in reversed(runs) if run.is_finished), None)


def _changes(run: RunDirectory, job: Job, asked: str) -> list[str]:
    """Name the inputs that are not those of a finished run; nothing is built if the job is not."""
    known = _read(run)
    if changed := _differences(known, fingerprint_of_job(asked)):
        return changed
    target = make_target(job.target)
    model = build_model(target, job.target)
    return _differences(known, fingerprint_of_target(job.target, target, model))


def _read(run: RunDirectory) -> Fingerprint:
    # One that cannot be read is that of no input, so that everything has changed.
    try:
        found = json.loads(run.fingerprint.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _differences(known: Fingerprint, now: Fingerprint) -> list[str]:
    return [name for name, digest in now.items() if known.get(name) != digest]


def _is_left_over(path: Path, beside: Path) -> bool:
    """Say whether a process was killed just before its finished run took its place."""
    return not path.exists() and RunDirectory(beside).is_finished


def _clear(path: Path) -> None:
    """Remove an older run.

    Raises:
        RunDirectoryError: There is something else, which is not touched.
    """
    if not path.exists():
        return
    if not (path / "job.yaml").exists():
        raise RunDirectoryError(
            f"{path}: is in the way and holds no run; move it, or choose another --output"
        )
    shutil.rmtree(path)
