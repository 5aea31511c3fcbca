"""A limit on how long an evaluation may take."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from rl_compress.errors import EvaluationError

Result = TypeVar("Result")


class _Expired(BaseException):
    """No `Exception`, so that the work's own handlers let it through."""


def within(seconds: float | None, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, unless it takes longer.

    In the main thread, which is where env runners and the command line evaluate, an alarm signal
    (``SIGALRM``) interrupts the work, waiting and reading included. In another thread, as those
    that Ray Tune runs trials in, an exception is raised asynchronously, between two instructions of
    Python. Neither ends a single call into native code that does not return: it is interrupted
    after it. Processes that the work started are left alone.

    Args:
        seconds: The limit; None for none.
        work: What to do.

    Raises:
        EvaluationError: It took longer.
    """
    if seconds is None:
        return work()
    in_main = threading.current_thread() is threading.main_thread()
    try:
        return (_with_alarm if in_main else _with_timer)(seconds, work)
    except _Expired:
        raise EvaluationError(
            f"took longer than evaluation.timeout_s allows ({seconds:g} s)"
        ) from None


def _with_alarm(seconds: float, work: Callable[[], Result]) -> Result:
    def expire(_number: int, _frame: FrameType | None) -> None:
        raise _Expired

    start = time.monotonic()
    before = signal.signal(signal.SIGALRM, expire)
    others, interval = signal.getitimer(signal.ITIMER_REAL)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)
        if others:  # somebody else's alarm, late if it was due meanwhile
            left = max(others - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _with_timer(seconds: float, work: Callable[[], Result]) -> Result:
    thread = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), False

    def interrupt(exception: Any) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, exception)

    def expire() -> None:
        with lock:
            if not done:
                interrupt(ctypes.py_object(_Expired))

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    try:
        timer.start()
        return work()
    finally:
        timer.cancel()
        with lock:
            done = True
        # One that was raised in the last moment must not arrive later.
        interrupt(None)
