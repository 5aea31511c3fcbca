"""From a job to a run on a cluster, and back."""

from __future__ import annotations

import hashlib
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rl_compress.errors import ConfigError, SubmissionError
from rl_compress.execution import RUNS
from rl_compress.job import Job
from rl_compress.runs.remote import check_uri, is_uri
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.space.budget import BUDGETABLE, Budget
from rl_compress.submission.client import connect, follow
from rl_compress.submission.entrypoint import entrypoint
from rl_compress.submission.payload import requirements, stage
from rl_compress.submission.run_in_log import RunInLog

_DIGEST = "rl-compress-job"
"""Key of a submission's metadata: which job it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and with what a job runs on a cluster."""

    storage: str | None = None
    """Run directory on storage that all nodes share, a path or a URI; else the run is sent back
    through the log."""
    include: Sequence[Path] = field(default=())
    """Files and folders that the target needs beside its module and weights."""
    pip: Sequence[str] = field(default=())
    """Requirements or local wheels that the cluster lacks."""
    cpus: float = 1.0
    """CPUs of the driver, which prepares and fine-tunes; env runners ask for their own."""
    gpus: float = 0.0
    """GPUs of the driver."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job on a cluster."""

    client: JobSubmissionClient
    id: str
    storage: str | None
    is_new: bool
    """False: it was there already."""


def submit(job: Job, address: str, place: Place, submission_id: str | None = None) -> Submission:
    """Hand a job to a cluster.

    Args:
        job: What to run there: `rl-compress search`.
        address: URL of the cluster's dashboard.
        place: Where and with what.
        submission_id: Name of the submission. If there is one of that name, of the same job, it is
            returned instead, so that a submitter which is repeated does no harm.

    Raises:
        ConfigError: The job or an option cannot work, or the cluster cannot be reached.
        SubmissionError: The cluster does not take the job.
    """
    if submission_id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", submission_id):
        raise ConfigError(f"--id {submission_id}: use letters, digits, points, - and _ only")
    if place.storage is not None and is_uri(place.storage):
        # What is wrong with it is told here; whether it can be reached matters on the cluster.
        check_uri(place.storage)
    elif place.storage is not None and not place.storage.startswith("/"):
        raise ConfigError(
            f"--storage {place.storage}: give the absolute path of a folder that is mounted on "
            f"all nodes, as /storage/runs/{job.name}, or a URI, as s3://bucket/runs/{job.name}"
        )
    # What its costs are fractions of, only the target knows; what they are called is known here.
    Budget.parse(job.effective_budget(), dict.fromkeys(BUDGETABLE, 1.0))
    digest = hashlib.sha256(f"{job.to_yaml()}{place.storage}".encode()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="rl-compress-") as scratch:
        folder = Path(scratch)
        stage(job, folder, place.include)
        environment: dict[str, Any] = {"working_dir": scratch}
        if pip := requirements(place.pip, folder):
            environment["pip"] = pip
        client = connect(address)
        if submission_id is not None and (found := _find(client, submission_id)) is not None:
            if (found.metadata or {}).get(_DIGEST) != digest:
                raise ConfigError(
                    f"--id {submission_id}: names another job on the cluster; choose another name"
                )
            return Submission(client, submission_id, place.storage, is_new=False)
        name = submission_id or f"{job.name}-{_stamp()}-{secrets.token_hex(2)}"
        try:
            client.submit_job(
                entrypoint=entrypoint(place.storage),
                submission_id=name,
                runtime_env=environment,
                metadata={_DIGEST: digest},
                entrypoint_num_cpus=place.cpus,
                entrypoint_num_gpus=place.gpus or None,
            )
        # ValueError: the files are more than Ray carries.
        except (RuntimeError, AuthenticationError, requests.RequestException, ValueError) as error:
            raise SubmissionError(f"the cluster does not take the job: {error}") from None
    return Submission(client, name, place.storage, is_new=True)


def free_directory(job: Job, output: Path | None) -> Path:
    """Return the directory to fetch a run to: the one named, or a new one.

    Raises:
        RunDirectoryError: The one named is not free.
    """
    directory = output or RUNS / job.name / _stamp()
    RunDirectory(directory).check(job.to_yaml(), resume=False)
    return directory


def wait(submission: Submission, output: Path | None, echo: Callable[[str], None]) -> None:
    """Wait for a job's end, show its log, and fetch its run.

    Args:
        submission: The job on the cluster.
        output: Directory for the run, not to exist or empty; None leaves it where it is.
        echo: Called with pieces of the log.

    Raises:
        SubmissionError: The job failed, with its exit code; what there is of the run is fetched.
    """
    log = RunInLog()

    def hear(piece: str) -> None:
        if people := log.feed(piece):
            echo(people)

    try:
        details = follow(submission.client, submission.id, hear)
    except KeyboardInterrupt:
        raise SubmissionError(
            f"interrupted; {submission.id} goes on, --wait --id {submission.id} waits for it again"
        ) from None
    if rest := log.end():
        echo(f"{rest}\n")
    fetched = output is not None and log.complete
    if output is not None and log.complete:
        log.unpack(output)
    if details.status != JobStatus.SUCCEEDED:
        raise SubmissionError(
            _failure(details, submission.id, output if fetched else None), _code(details)
        )
    if output is not None and not fetched:
        raise SubmissionError(f"{submission.id} succeeded, but its log holds no run")


def _find(client: JobSubmissionClient, submission_id: str) -> JobDetails | None:
    return next((job for job in client.list_jobs() if job.submission_id == submission_id), None)


def _code(details: JobDetails) -> int:
    code: int | None = details.driver_exit_code
    # Negative: a signal ended it.
    return code if code is not None and 0 < code < 256 else 1


def _failure(details: JobDetails, submission_id: str, output: Path | None) -> str:
    if details.status == JobStatus.STOPPED:
        reason = "was stopped"
    elif details.driver_exit_code is not None:
        reason = f"failed on the cluster (exit code {details.driver_exit_code}); its log says why"
    else:
        reason = f"could not run on the cluster ({' '.join((details.message or '').split())})"
    kept = "" if output is None else f"; what it had done is in {output}"
    return f"{submission_id} {reason}{kept}"


def _stamp() -> str:
    return datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
