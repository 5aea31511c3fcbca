"""Runs that a scheduler starts again and again: one is made only if something has changed.

An older run stays in its directory until the new one has succeeded: that one is made beside it, in
``DIR.new``, takes its place at the end, and leaves it as ``DIR.previous``. A run that fails leaves
``DIR.new``, which the next one begins afresh.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

from rl_compress.comparison import Extras
from rl_compress.errors import ConfigError, RunDirectoryError
from rl_compress.execution import RUNS, RunResult, asked_for, search
from rl_compress.job import Job
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.runs.remote import is_uri
from rl_compress.runs.run_directory import NEW, RunDirectory
from rl_compress.runs.run_lock import LOCK_FILE, run_lock
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
    extras: Extras,
    address: str | None = None,
    monitor: Monitor | None = None,
) -> RunResult | None:
    """Search as :func:`rl_compress.execution.search` does, unless that has been done.

    Args:
        job: What to compress, and how far.
        output: The run directory, new or with an older run, of this job or another; by default the
            job's latest finished run counts, and a new one goes to ``runs/<name>/<time>``.
        extras: What is done beside.
        address: A Ray cluster; by default a local one is started.
        monitor: Hears of progress.

    Returns:
        The new run, or None if package, job, model and data are those of the older run.

    Raises:
        RLCompressError: Bad input, or a run that failed.
    """
    monitor = monitor or SilentMonitor()
    asked = asked_for(job, extras)
    run = functools.partial(search, job, extras=extras, address=address, monitor=monitor)
    if output is None:
        return None if _is_done(_latest(job), job, asked, monitor) else run()
    if is_uri(output):
        raise ConfigError(
            f"--output {output}: --if-changed replaces directories, which remote storage cannot; "
            f"give a local directory, or leave --if-changed out"
        )
    path = Path(output)
    beside = path.with_name(path.name + NEW)
    if not path.exists() and RunDirectory(beside).is_finished:
        beside.rename(path)  # a process was killed just before it did that
    if not (path / "job.yaml").exists():
        return run(path)
    with run_lock(path):
        if _is_done(RunDirectory(path), job, asked, monitor):
            return None
        _clear(beside)
        result = run(beside)
        replaced = path.with_name(f"{path.name}.previous")
        _clear(replaced)
        path.rename(replaced)
        beside.rename(path)
        (replaced / LOCK_FILE).unlink(missing_ok=True)
    monitor.say(f"the new run is now in {path}, the older one in {replaced}")
    return RunResult(path, result.best, result.manifest, str(path))


def _is_done(older: RunDirectory | None, job: Job, asked: str, monitor: Monitor) -> bool:
    """Say whether a run would be an older one once more."""
    if older is None or not older.is_finished:
        return False
    if changed := _changes(older, job, asked):
        monitor.say(f"changed since the run in {older.path}: {', '.join(changed)}")
        return False
    monitor.say(f"unchanged since the run in {older.path}: nothing to do")
    return True


def _latest(job: Job) -> RunDirectory | None:
    """Return the latest finished run of a job that was given no directory."""
    runs = [RunDirectory(path) for path in sorted((RUNS / job.name).glob("*"))]
    return next((run for run in reversed(runs) if run.is_finished), None)


def _changes(run: RunDirectory, job: Job, asked: str) -> list[str]:
    """Name the inputs that are not those of a finished run; nothing is built if the job is not."""
    known = _read(run)
    if changed := _differences(known, fingerprint_of_job(asked)):
        return changed
    # Whose sources count must have been imported.
    job.check_parts()
    parts = [name for _, name in job.named_parts()]
    target = make_target(job.target)
    model = build_model(target, job.target)
    return _differences(known, fingerprint_of_target(job.target, target, model, parts))


def _read(run: RunDirectory) -> Fingerprint:
    # One that cannot be read is that of no input, so that everything has changed.
    try:
        found = json.loads(run.fingerprint.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _differences(known: Fingerprint, now: Fingerprint) -> list[str]:
    return [name for name, digest in now.items() if known.get(name) != digest]


def _clear(path: Path) -> None:
    """Remove an older run.

    Raises:
        RunDirectoryError: It is being run, or there is something else, which is not touched.
    """
    if not path.exists():
        return
    if not (path / "job.yaml").exists():
        raise RunDirectoryError(
            f"{path}: is in the way and holds no run; move it, or choose another --output"
        )
    with run_lock(path):
        shutil.rmtree(path)
