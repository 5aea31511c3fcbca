"""The run directory: one execution of a job, resumable and readable while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from rl_compress.errors import CorruptFileError, RunDirectoryError
from rl_compress.runs.mirror import Mirror
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_lock import LOCK_FILE
from rl_compress.runs.schema import to_table
from rl_compress.runs.store import EvaluationStore
from rl_compress.runs.written import whole
from rl_compress.strict_yaml import load_yaml

NEW = ".new"
"""Ends the name of a directory whose run is to take an older one's place."""

_KEYS = 3
"""Keys that differ between two jobs, as far as they are named."""

_STARTED = "fingerprint.started.json"
"""The fingerprint's name until the run is finished."""

_RANKING = "ranking.json"


class RunDirectory:
    """Files of one run; each is written whole and renamed into place."""

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        """Name the directory; nothing is created.

        Args:
            path: The directory, or the folder within a working folder.
            mirror: Keeps its copy on remote storage.
        """
        self.path = path
        self.mirror = mirror
        self.evaluations = path / "evaluations"
        """Folder of the evaluation records."""
        self.sensitivity = path / "sensitivity.parquet"
        """File of the sensitivity curves."""
        self.pretraining = path / "pretraining"
        """Folder of the pre-training's checkpoints."""
        self.contribution = path / "contribution.parquet"
        """File of the contributions' history."""
        self.checkpoints = path / "checkpoints"
        """Folder of the algorithm's checkpoints."""
        self.best = path / "best"
        """Folder of the delivered model."""
        self.verification = path / "verification.parquet"
        """File of the variants that were fine-tuned to verify the search."""
        self.baselines = path / "baselines"
        """Folder of the searches that this one is compared with."""
        self.fingerprint = path / "fingerprint.json"
        """File that tells what a finished run was made from; an unfinished run has none."""

    @property
    def location(self) -> str:
        """Where the run is kept: a path, or a URI."""
        return str(self.path) if self.mirror is None else self.mirror.remote.uri

    @property
    def name(self) -> str:
        """The run's name, which is that of the directory where it ends up."""
        return self.path.name.removesuffix(NEW)

    def store(self) -> EvaluationStore:
        """Open the store of evaluation records; what it takes is on remote storage at once."""
        if self.mirror is None:
            return EvaluationStore(self.evaluations)
        return EvaluationStore(self.evaluations, self.mirror.keep)

    def push(self) -> None:
        """Bring the copy on remote storage, if there is one, to what is here.

        Raises:
            StorageError: The storage stayed away.
        """
        if self.mirror is not None:
            self.mirror.push()

    @property
    def is_finished(self) -> bool:
        """Say whether the run came to its end."""
        return self.fingerprint.exists()

    def ranking(self) -> dict[str, float]:
        """Return the rewards that variants have in float32, by policy id.

        Empty where the search measured in float32, or is not done.

        Raises:
            CorruptFileError: The file cannot be read.
        """
        path = self.path / _RANKING
        try:
            return dict(json.loads(path.read_bytes())) if path.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise CorruptFileError(
                f"{path}: not a readable ranking ({error}); remove it and resume the run"
            ) from None

    def write_ranking(self, rewards: Mapping[str, float]) -> None:
        """Keep what :meth:`ranking` returns."""
        self.write_json(_RANKING, rewards)

    def settle(self, name: str, choose: Callable[[], str]) -> str:
        """Return what was chosen when the run began, or choose and keep it.

        Args:
            name: Of the file that it is kept in.
            choose: Chooses by what this machine can do; the next one may be able to do other things.
        """
        path = self.path / name
        if not path.exists():
            self.write_text(name, f"{choose()}\n")
        return path.read_text(encoding="utf-8").strip()

    def check(self, job_yaml: str, *, resume: bool, filled_in: Callable[[str], str] = str) -> None:
        """Make sure that the directory can take a job's run; nothing is written.

        Args:
            job_yaml: The job with all defaults filled in.
            resume: Continue the run that is in the directory.
            filled_in: Fills in the keys that a job lacks which an earlier release stored.

        Raises:
            RunDirectoryError: The directory holds another job, or a run that is not to be resumed,
                or nothing although it should be resumed, or it is no directory.
        """
        job_file = self.path / "job.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.location}: is a file; name a directory with --output")
        if job_file.exists():
            stored = job_file.read_text(encoding="utf-8")
            if job_yaml not in (stored, filled := filled_in(stored)):
                raise RunDirectoryError(
                    f"{self.location}: holds a run of another job (its job.yaml differs from this "
                    f"one{_where(filled, job_yaml)}); choose another --output"
                )
            if not resume:
                raise RunDirectoryError(
                    f"{self.location}: holds a run of this job already; add --resume to continue "
                    f"it, or choose another --output"
                )
        elif resume:
            raise RunDirectoryError(
                f"{self.location}: there is no run to resume (no job.yaml); leave out --resume"
            )
        elif self.path.exists() and {path.name for path in self.path.iterdir()} - {LOCK_FILE}:
            raise RunDirectoryError(
                f"{self.location}: is not empty and holds no run; choose another --output"
            )

    def create(self, job_yaml: str) -> None:
        """Create the directory, or take up the run that is in it.

        Raises:
            RunDirectoryError: The directory cannot be written.
        """
        try:
            self.evaluations.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            self.write_text("job.yaml", job_yaml)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --output"
            ) from None

    def note_fingerprint(self, fingerprint: Mapping[str, str]) -> None:
        """Keep what the run is made from, until it is finished.

        A run that is resumed keeps its first, which is what its evaluations were made from.
        """
        if not self.is_finished and not (self.path / _STARTED).exists():
            self.write_json(_STARTED, fingerprint)

    def finish(self) -> None:
        """Say that the run came to its end."""
        if not self.is_finished:
            (self.path / _STARTED).rename(self.fingerprint)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole."""
        with whole(self.path / name) as file:
            file.write_text(text, encoding="utf-8")

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file whole."""
        self.write_text(name, json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def write_records(self, name: str, records: Sequence[EvaluationRecord]) -> None:
        """Write records as one parquet file, whole."""
        with whole(self.path / name) as file:
            pq.write_table(to_table(records), file)


def _where(one: str, other: str) -> str:
    """Name some of the keys whose values differ between two jobs, as far as they can be read."""
    try:
        values = [_flat(load_yaml(text)) for text in (one, other)]
    except yaml.YAMLError:
        return ""
    keys = [key for key in {**values[0], **values[1]} if len({v.get(key) for v in values}) > 1]
    return f" in {', '.join(keys[:_KEYS])}{' …' if len(keys) > _KEYS else ''}" if keys else ""


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Return the values of nested sections by dotted key, as text."""
    if not isinstance(value, dict) or not value:
        return {key: repr(value)}
    parts = ((f"{key}.{name}" if key else str(name), part) for name, part in value.items())
    return {name: text for own, part in parts for name, text in _flat(part, own).items()}
