"""Jobs on the tiny target, and ways to run them: in this process, and in one of their own."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from forked import Forked
from typer.testing import CliRunner

from rl_compress.cli import app
from rl_compress.evaluation.ledger import Progress
from rl_compress.job import parse_job
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.session import Session

JOB: dict[str, Any] = {
    "name": "tiny",
    "target": {"factory": "tiny_target:tiny"},
    "budget": {"macs": 0.5},
    "objective": {"score": "fidelity"},
    "search": {
        "algorithm": "random",
        "evaluations": 12,
        "num_env_runners": 2,
        "num_cpus_per_env_runner": 0.5,
        "sensitivity_levels": 3,
        "sac": {"warmup_episodes": 4, "batch_size": 16},
        "tqc": {"warmup_episodes": 4, "batch_size": 16},
        "appo": {"episodes_per_update": 6},
    },
    "finetuning": {"epochs": 1},
    "export": {"onnx": False},
}

HERE = Path(__file__).parent

Running = subprocess.Popen[str] | Forked


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong: the last of standard error."""
        return self.stderr.rstrip("\n").rpartition("\n")[2]


def make_job(**changes: Any) -> dict[str, Any]:
    """Return the job with some keys changed; ``search__seed=3`` changes ``search.seed``."""
    job = copy.deepcopy(JOB)
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = job
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return job


def write_job(folder: Path, **changes: Any) -> Path:
    """Write a job file."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(make_job(**changes)), encoding="utf-8")
    return path


def run_here(*arguments: object) -> Outcome:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Outcome(result.exit_code, result.stdout, result.stderr)


def start(
    *arguments: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    stderr: IO[str] | None = None,
    anew: bool = False,
) -> Running:
    """Start a command as a process; the caller waits for it.

    Args:
        arguments: Of ``rl-compress``.
        cwd: Its folder.
        env: Its environment, where that differs from this process's.
        stderr: Where its errors go, instead of into the outcome.
        anew: Start an interpreter, which imports everything, where another environment does not
            call for it.
    """
    if env is None and not anew:
        return Forked([*map(str, arguments)], cwd, stderr.name if stderr else "")
    return subprocess.Popen(
        [sys.executable, "-m", "rl_compress.cli", *map(str, arguments)],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr or subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """Undo what a shell's background job hands down: processes that ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: Running, timeout_s: float = 240) -> Outcome:
    """Wait for a process, and kill it if it takes too long."""
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"not ended after {timeout_s} s:\n{stdout}\n{stderr}") from None
    return Outcome(process.returncode, stdout, stderr or "")


def run_process(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 240
) -> Outcome:
    """Run a command as a process of its own."""
    return finish(start(*arguments, cwd=cwd, env=env), timeout_s)


def wait_for(condition: Callable[[], bool], process: Running, timeout_s: float = 180) -> None:
    """Wait until a process has come so far."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            stdout, stderr = process.communicate()
            raise AssertionError(f"ended too early ({process.returncode}):\n{stdout}\n{stderr}")
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGKILL)
            stdout, stderr = process.communicate()
            raise AssertionError(f"nothing happened in {timeout_s} s:\n{stdout}\n{stderr}")
        time.sleep(0.05)


def count_parts(run: Path) -> int:
    """Return the number of parts of a run's evaluations."""
    return len(list((run / "evaluations").glob("*.parquet")))


def prepared(folder: Path, **changes: Any) -> Session:
    """Return a session of the job with some keys changed, in a directory, which may hold a run."""
    job = parse_job(make_job(**changes))
    session = Session(job, RunDirectory(folder))
    session.prepare()
    return session


def searched(folder: Path, **changes: Any) -> tuple[Progress, str | None]:
    """Search in this process; return how far it came, and why it ended early."""
    session = prepared(folder, **changes)
    session.run.create(session.job.to_yaml())
    session.search()
    return session.progress, session.stopped_early


def read_records(run: Path) -> list[EvaluationRecord]:
    """Return a run's evaluations."""
    return EvaluationStore(run / "evaluations").read()


def unfinished_files(run: Path) -> list[Path]:
    """Return everything in a run that somebody began to write and did not finish."""
    return [
        path for path in run.rglob("*") if re.search(r"\.(tmp|unfinished|previous)$", path.name)
    ]


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        os.kill(pid, 0)
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
