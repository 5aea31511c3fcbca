"""How a command fails: one line that says what to do, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from rl_compress.errors import RLCompressError

if TYPE_CHECKING:
    from rl_compress.report.live import ConsoleMonitor


@contextlib.contextmanager
def reported() -> Iterator[ConsoleMonitor]:
    """Lend a monitor to a command; turn the command's errors into a line and an exit code."""
    from rl_compress.report.live import ConsoleMonitor

    monitor = ConsoleMonitor()
    try:
        yield monitor
    except RLCompressError as error:
        monitor.close()
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        monitor.close()
        _fail(monitor.interruption(), 1)
    except OSError as error:
        monitor.close()
        remedy = "; make room, and go on with --resume" if error.errno == errno.ENOSPC else ""
        _fail(f"{error.filename or 'input/output'}: {error.strerror or error}{remedy}", 1)
    except Exception as error:
        monitor.close()
        logging.getLogger(__name__).info("unexpected error", exc_info=error)
        _fail(f"unexpected {type(error).__name__}: {error} (--verbose shows where)", 1)
    finally:
        monitor.close()


def _fail(message: str, code: int) -> None:
    one_line = " ".join(message.split())
    typer.secho(f"error: {one_line}", fg=typer.colors.RED, err=True)
    sys.exit(code)
