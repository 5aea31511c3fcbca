"""The command that the cluster runs: `rl-compress search`, as a user would type it."""

from __future__ import annotations

import shlex

from rl_compress.runs.remote import is_uri
from rl_compress.submission.payload import JOB_FILE

# The first `python` on the node's path, or the one of the job's own environment.
_SEARCH = "python -m rl_compress.cli search"
_HOLDS_RUN = "python -m rl_compress.submission.holds_run"
_RUN = "run"


def entrypoint(storage: str | None) -> str:
    """Return a shell command that searches, and ends with the search's own exit code.

    Args:
        storage: Run directory on storage that all nodes share, a path or a URI: a run of
            the job that is there already is resumed. Without, the run is printed to the log when
            the search has ended.
    """
    if storage is None:
        return (
            f"{_SEARCH} {JOB_FILE} --output {_RUN}; code=$?; "
            f"python -m rl_compress.submission.run_in_log {_RUN}; exit $code"
        )
    output = shlex.quote(storage)
    search = f"{_SEARCH} {JOB_FILE} --output {output}"
    there = f"{_HOLDS_RUN} {output}" if is_uri(storage) else f"[ -e {output}/job.yaml ]"
    return f"if {there}; then {search} --resume; else {search}; fi"
