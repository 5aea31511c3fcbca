"""Every error raised on purpose: one line that names the key or file, and the remedy.

The command line prints the message and exits with the class's ``exit_code``: 2 for bad input,
1 for a run that failed.
"""

from __future__ import annotations

import traceback


class RLCompressError(Exception):
    """Base class of all errors that a user is expected to read."""

    exit_code = 1


class ConfigError(RLCompressError):
    """The job file, an option or a value in it is wrong."""

    exit_code = 2


class TargetError(ConfigError):
    """The target's factory, model, weights or data cannot be used."""


class UnsupportedLayerError(ConfigError):
    """The model has nothing that can be compressed, or a layer that cannot be handled."""


class InfeasibleBudgetError(ConfigError):
    """No compression policy of the search space meets the budget."""


class RunDirectoryError(ConfigError):
    """The output directory belongs to another job, or lacks what was asked of it."""


class DirectoryInUseError(RunDirectoryError):
    """Another process runs in the output directory at this moment."""


class CorruptFileError(RLCompressError):
    """A stored file (parquet part, safetensors, JSON) cannot be read."""

    exit_code = 2


class StorageError(RLCompressError):
    """A disk is full, or remote storage cannot be reached; what was stored before is kept."""


class EvaluationError(RLCompressError):
    """Variants could not be evaluated."""


class SearchStalledError(RLCompressError):
    """The search stopped producing evaluations."""


class SubmissionError(RLCompressError):
    """A job was not taken by a cluster, or did not succeed there."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        """Keep the exit code of the job itself, where it has one."""
        super().__init__(message)
        self.exit_code = exit_code


def summary(error: BaseException) -> str:
    """Return type, message and place of an error in one line."""
    text = " ".join(str(error).split())[:200]
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if "site-packages" not in frame.filename and "<frozen" not in frame.filename
    ]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {text}{place}"
