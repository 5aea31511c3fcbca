"""Commands as processes that are forked from one which has imported all that they need.

Imports are most of the time of a small run. A forked command has its own id, folder, output and
signals, as one that is started anew.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PRELOADED = [
    *("torch._dynamo", "scipy.stats", "matplotlib.pyplot", "onnxruntime", "torch.onnx"),
    *("rl_compress.cli", "rl_compress.api", "rl_compress.execution", "tiny_target"),
    *("rl_compress.agent.rllib.driver", "rl_compress.agent.rllib.standby"),
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


class Forked:
    """A command that runs; as much of :class:`subprocess.Popen` as tests use."""

    def __init__(self, arguments: Sequence[str], cwd: Path, stderr: str = "") -> None:
        """Start ``rl-compress`` with arguments in a folder; its errors may go to a file."""
        self._folder = tempfile.TemporaryDirectory(prefix="rlc-")
        self._files = [Path(self._folder.name, "stdout"), Path(self._folder.name, "stderr")]
        if stderr:
            self._files[1] = Path(stderr)
        for file in self._files:
            file.touch()
        self._process = _context.Process(
            target=_run,
            args=(list(arguments), str(cwd), dict(os.environ), *map(str, self._files)),
        )
        self._process.start()
        self.pid = self._process.pid
        atexit.register(self._process.kill)

    @property
    def returncode(self) -> int | None:
        """How it ended, minus a signal where that ended it; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the same."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return what it wrote to standard output and to standard error."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("rl-compress", timeout or 0.0)
        stdout, stderr = (file.read_text(encoding="utf-8") for file in self._files)
        return stdout, stderr


def _run(
    arguments: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str
) -> None:
    """Be the command: as `python -m rl_compress.cli` is."""
    for name, number in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        os.dup2(os.open(name, os.O_RDWR), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2)
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv = ["rl-compress", *arguments]
    from rl_compress.cli import app

    code: int | str | None = 0
    try:
        app()
    except SystemExit as end:
        code = end.code
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
